"""CLIPs of OpenCLIP and transformers against what those libraries computed; see make_clip.py."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vpjax.backbones.clip import CLIP
from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.data.transforms import PRESETS
from vpjax.models.text import zero_shot
from vpjax.models.text.pretrained import load_text
from vpjax.nn.mop_similarity import unit
from vpjax.weights import clip, clip_config
from vpjax.weights.load import load

DATA = Path(__file__).parent / "data"
SAID = {  # what the files themselves do not say
    "clip_open_training": {"activation": "gelu", "heads": 2},
}
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
    options = CLIP.complete(given, path)
    body = nnx.eval_shape(lambda: CLIP(**options, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(body)
    loaded = load(path, params.flatten(state), body.grid, resample="bicubic")
    values = {n: jnp.asarray(v, jnp.float32) for n, v in loaded.values.items()}
    return nnx.merge(graph, params.fill(state, values))


def same(found, expected):
    """Equal to 2e-6 of the largest number."""
    scale = np.abs(expected).max()
    assert found.shape == expected.shape and scale > 0.1
    np.testing.assert_allclose(np.asarray(found) / scale, expected / scale, atol=2e-6, rtol=0)


@jax.jit
def _features(graph, state, images):
    with jax.default_matmul_precision("highest"):
        return nnx.merge(graph, state)(images)


def image_features(body, images):
    return _features(*nnx.split(body), images.astype(np.float32))


def text_features(name):
    text = load_text(where(name), **SAID.get(name, {}) | _text_heads(name))
    with jax.default_matmul_precision("highest"):
        return text, text.tower(recorded(name)["ids"])


def _text_heads(name):
    return {"heads": 4} if name in SAID else {}


@pytest.mark.parametrize("name", VISION)
def test_image_features(name):
    found = recorded(name)
    same(
        image_features(backbone(where(name), **SAID.get(name, {})), found["images"]),
        found["features"],
    )


@pytest.mark.parametrize("name", TEXT)
def test_text_features(name):
    same(text_features(name)[1], recorded(name)["text_features"])


@pytest.mark.parametrize("name", [f for f in VISION if f in TEXT])
def test_zero_shot_logits(name):
    found = recorded(name)
    text, features = text_features(name)
    image = image_features(backbone(where(name), **SAID.get(name, {})), found["images"])
    same(zero_shot.logits(image, unit(features), text.scale), found["logits"])


def test_features_at_another_size():
    found = recorded("clip_open_gelu")
    body = backbone(where("clip_open_gelu"), image_size=24)
    same(image_features(body, found["images_24"]), found["features_24"])
