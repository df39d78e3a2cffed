"""Networks of several stages compute what their libraries compute; see `tests/zoo/make_conv.py`."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpjax.models.create import load_backbone
from vpjax.models.factory import BackboneSpec, load_weights

HERE = Path(__file__).parent / "data"
FAMILIES = ("swin", "convnext", "resnet", "resnext", "bit", "hybrid")
CASES = sorted(p.name for p in HERE.iterdir() if any(f in p.name for f in FAMILIES))
TOLERANCE = 2e-6


def weights(name):
    folder = HERE / name
    single = [
        folder / f"model.{kind}" for kind in ("pth", "npz") if (folder / f"model.{kind}").exists()
    ]
    return str(single[0] if single else folder)


def options(name):
    """What torchvision's files do not say."""
    return {
        "tv_swinv2": {"window": 4, "image_size": 32, "pretrained_windows": 0},
    }.get(name, {})


def recorded_of(name):
    with np.load(HERE / name / "recorded.npz") as file:
        return dict(file)


def features(backbone, images):
    return np.asarray(jax.jit(lambda x: backbone(x))(jnp.asarray(images, jnp.float32)))


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < TOLERANCE * np.abs(theirs).max()


@pytest.mark.parametrize("name", CASES)
def test_features_and_logits_are_the_library_s(name):
    recorded = recorded_of(name)
    backbone = load_backbone(weights(name), **options(name))
    ours = features(backbone, recorded["images"])
    close(ours, recorded["features"])
    if "logits" in recorded:
        spec = BackboneSpec("", weights=weights(name), head="load")
        head = load_weights(backbone, spec).head
        close(ours @ head["kernel"] + head["bias"], recorded["logits"])


@pytest.mark.parametrize("name", CASES)
def test_another_image_size(name):
    recorded = recorded_of(name)
    if "other_images" not in recorded:
        pytest.skip("the library has one size, or the other is no different here")
    images = recorded["other_images"]
    size = {"image_size": images.shape[1:3]}
    backbone = load_backbone(weights(name), **(options(name) | size))
    close(features(backbone, images), recorded["other_features"])
