"""Prompts as pictures: enlarged, averaged, scaled; the constant one flat."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.report.plots.subjects import subject
from vpjax.report.plots.prompts import learnt, panel, prompts


def with_prompts(values):
    run = subject("msvp")
    changed = {f"method/{n}_prompt": jnp.asarray(v, jnp.float32) for n, v in values.items()}
    state = dataclasses.replace(run.state, trainable={**run.state.trainable, **changed})
    return dataclasses.replace(run, state=state)


VALUES = {
    "global": np.full((1, 1, 1), -0.25),
    "mid": np.arange(16.0).reshape(4, 4, 1) / 10,
    "local": np.random.default_rng(0).standard_normal((8, 8, 1)),
}


def test_a_panel_is_its_formula():
    prompt = np.stack([np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([[4.0, 1.0], [0.0, 1.0]])], -1)
    got = panel(prompt, 4)
    mean = prompt.mean(-1)  # enlarging is linear: the order of both does not matter
    weights = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    large = weights @ mean @ weights.T
    np.testing.assert_allclose(got, (large - large.min()) / np.ptp(large), atol=1e-6)
    assert panel(VALUES["local"]).shape == (224, 224)


def test_the_constant_prompt_is_flat():
    assert np.unique(panel(np.array([[[0.1, -0.3, 0.7]]]))).tolist() == [0.5]


def test_the_figure_shows_every_scale_and_its_values():
    run = with_prompts(VALUES)
    assert list(learnt(run)) == ["global", "mid", "local"]
    figure = prompts(run)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title().split("\n")[0] for axes in panels] == [
        "global prompt",
        "mid prompt",
        "local prompt",
    ]
    assert "(4 x 4" in panels[1].get_title()
    mid = np.asarray(panels[1].images[0].get_array())
    np.testing.assert_allclose(mid, panel(VALUES["mid"]), atol=1e-6)
    bars = [axes for axes in figure.axes if not axes.get_title()]
    texts = [[t.get_text() for t in bar.get_yticklabels()] for bar in bars]
    assert texts[0] == ["-0.250"]
    assert texts[1] == ["+0.000", "+1.500"]
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    box = panels[0].get_window_extent()
    height = image.shape[0]
    inside = image[
        height - int(box.y1) + 6 : height - int(box.y0) - 6, int(box.x0) + 6 : int(box.x1) - 6
    ]
    assert np.ptp(inside.reshape(-1, 3), axis=0).max() <= 2  # flat, whatever rounding does
    box = panels[1].get_window_extent()
    inside = image[height - int(box.y1) + 6 : height - int(box.y0) - 6, int(box.x0) : int(box.x1)]
    assert np.ptp(inside.reshape(-1, 3), axis=0).max() > 100


@pytest.mark.parametrize("kind", ["vpt", "full"])
def test_other_methods_have_none(kind):
    assert learnt(subject(kind)) == {}
