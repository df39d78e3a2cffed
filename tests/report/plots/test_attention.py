"""What the class token looks at, and how much of it are prompts."""

import jax
import numpy as np
import pytest

from tests.helpers.cases import make
from tests.report.plots.subjects import subject
from vpjax.models.partition import merge
from vpjax.nn.layers import Attention
from vpjax.report.plots import attention as drawing

IMAGES = jax.random.normal(jax.random.key(0), (1, 16, 16, 3))


@pytest.mark.parametrize(
    "method", ["linear", "vpt_shallow", "vpt_deep", "vpt_deep_pool", "vpt_first"]
)
def test_weights_are_those_the_layers_use(method, monkeypatch):
    parts = tuple(make("vit", method))
    found = drawing.attention(parts, IMAGES)
    used, mix = [], Attention.mix

    def watch(self, q, k, v):
        scores = np.einsum("bqnd,bknd->bnqk", q, k) / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        used.append((weights / weights.sum(-1, keepdims=True)).mean(1)[0])
        return mix(self, q, k, v)

    monkeypatch.setattr(Attention, "mix", watch)
    merge(*parts)(IMAGES)
    assert len(found) == len(used) == 2
    for layer, weights in zip(found, used, strict=True):
        prompts = weights.shape[1] - 17
        assert layer.own.shape[1] == 17
        np.testing.assert_allclose(layer.own[0].sum() + layer.prompts[0], 1, atol=1e-6)
        assert (layer.prompts[0] > 1e-3) == (prompts > 0)
        np.testing.assert_allclose(layer.own[0, 1:], weights[0, -16:], atol=1e-5)
        # Inserted prompts stand behind the class token, prompts that are read before all keys.
        own = weights[0, [0, prompts]]
        assert np.abs(layer.own[0, 0] - own).min() < 1e-5


def test_rollout_by_hand():
    first = drawing.Seen(
        np.array([[0.2, 0.4, 0.2], [0.5, 0.25, 0.25], [0.1, 0.3, 0.6]]), np.zeros(3)
    )
    last = drawing.Seen(np.array([[0.5, 0.25, 0.25]]), np.zeros(1))
    eye = np.eye(3)
    a = (first.own / first.own.sum(-1, keepdims=True) + eye) / 2
    b = (np.array([[0.5, 0.25, 0.25]]) + eye[:1]) / 2
    np.testing.assert_allclose(drawing.rollout([first, last]), (b @ a)[0], atol=1e-12)
    whole = drawing.Seen(np.stack([last.own[0], [0, 1, 0], [0, 0, 1]]), np.zeros(3))
    np.testing.assert_allclose(drawing.rollout([first, whole]), (b @ a)[0], atol=1e-12)


@pytest.fixture(scope="module")
def run():
    return subject("vpt", image=2)


def test_the_figure(run):
    assert drawing.applies(run) and not drawing.applies(subject("msvp"))
    figure = drawing.attention_maps(run)
    bars = figure.axes[3]
    labels = [t.get_text() for t in bars.get_legend().get_texts()]
    assert labels == ["prompts", "patches", "class token"]
    heights = np.array([[p.get_height() for p in c] for c in bars.containers])
    np.testing.assert_allclose(heights.sum(0), 100)
    assert heights.shape == (3, 4) and (heights > 0).all()
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    assert (np.abs(image - [0xD5, 0x5E, 0x00]).max(-1) < 12).sum() > 1000  # prompts
