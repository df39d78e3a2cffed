"""CLIPs of OpenCLIP and transformers against what those libraries computed; see make_clip.py."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vpjax.backbones.clip import CLIP
from vpjax.core import params
from vpjax.models.text import zero_shot
from vpjax.models.text.pretrained import load_text
from vpjax.nn.mop_similarity import unit
from vpjax.weights.load import load
from vpjax.weights.recognise import describe

DATA = Path(__file__).parent / "data"
# What the files themselves do not say.
SAID = {"clip_open_training": {"activation": "gelu", "heads": 2}}
SAID_OF_TEXT = {"clip_open_training": {"activation": "gelu", "heads": 4}}
FILES = {"clip_open_training": "epoch_3.pt"}
FOLDERS = sorted(p.name for p in DATA.glob("clip_*"))
VISION = [f for f in FOLDERS if "text" not in f]
TEXT = [f for f in FOLDERS if "vision" not in f]


def where(name):
    return str(DATA / name / FILES.get(name, ""))


def recorded(name):
    with np.load(DATA / name / "recorded.npz") as file:
        return {n: file[n] for n in file.files}


def backbone(path, **given):
    """The backbone that weights describe, with what they leave open given."""
    found = describe(path)
    assert found.name == "clip.CLIP" and set(found.open) <= given.keys()
    body = nnx.eval_shape(lambda: CLIP(**dict(found.options) | given, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(body)
    loaded = load(path, params.flatten(state), body.grid, resample=found.resample)
    values = {n: jnp.asarray(v, jnp.float32) for n, v in loaded.values.items()}
    return nnx.merge(graph, params.fill(state, values))


def same(found, expected):
    """Equal to 2e-6 of the largest number."""
    scale = np.abs(expected).max()
    assert found.shape == expected.shape and scale > 0.1
    np.testing.assert_allclose(np.asarray(found) / scale, expected / scale, atol=2e-6, rtol=0)


@functools.partial(jax.jit, static_argnums=0)
def run(graph, state, x):
    with jax.default_matmul_precision("highest"):
        return nnx.merge(graph, state)(x)


def image_features(path, images, **given):
    body = backbone(path, **given)
    return run(*nnx.split(body), images.astype(np.float32))


def text_features(name):
    text = load_text(where(name), **SAID_OF_TEXT.get(name, {}))
    return run(*nnx.split(text.tower), recorded(name)["ids"]), text.scale


@pytest.mark.parametrize("name", VISION)
def test_image_features(name):
    found = recorded(name)
    features = image_features(where(name), found["images"], **SAID.get(name, {}))
    same(features, found["features"])


@pytest.mark.parametrize("name", TEXT)
def test_text_features_and_zero_shot_logits(name):
    found = recorded(name)
    features, scale = text_features(name)
    same(features, found["text_features"])
    if "features" in found:
        images = jnp.asarray(found["features"])
        same(zero_shot.logits(images, unit(features), scale), found["logits"])


@pytest.mark.parametrize("name", ["clip_open_gelu", "clip_hub_vision"])
def test_features_at_another_size(name):
    found = recorded(name)
    features = image_features(where(name), found["images_24"], image_size=24)
    same(features, found["features_24"])
