"""Resizing against Pillow and recorded arrays; those of VPT are cases of tests/golden."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vpjax.data import preset, resize

FIXTURES = Path(__file__).parent / "fixtures"


def recorded(file):
    with np.load(FIXTURES / file) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("i", range(5))
def test_clip(i):
    arrays = recorded("clip_preprocess.npz")
    clip = preset("clip")
    pixels = clip.host(arrays[f"in/{i}/image"], 32, True)
    assert (pixels == arrays[f"out/{i}/cropped"]).all()
    out = clip.device(pixels[None], 32, True)
    np.testing.assert_allclose(out[0], arrays[f"out/{i}/normalized"], atol=2e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 40), st.sampled_from([1, 3]))
def test_legacy_on_host_equals_device(height, width, size, channels):
    image = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    host = resize.on_host(image, size, size, "legacy_bilinear")
    device = resize.on_device(image[None], size, size, "legacy_bilinear")[0]
    np.testing.assert_allclose(host, device, atol=1e-4)


@pytest.mark.parametrize("kind", resize.KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_same_size_changes_nothing(kind, channels):
    image = np.random.default_rng(0).integers(0, 256, (7, 9, channels), np.uint8)
    assert (resize.on_host(image, 7, 9, kind) == image).all()
    np.testing.assert_allclose(resize.on_device(image[None], 7, 9, kind)[0], image, atol=1e-4)


@pytest.mark.parametrize(("kind", "most"), [("pil_bilinear", 1), ("pil_bicubic", 2)])
def test_device_is_close_to_pillow(kind, most):
    """On smooth images; at hard edges Pillow's rounding between its passes shows more."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC))
    for size in (20, 32, 56):
        host = resize.on_host(image, size, size, kind)
        device = resize.on_device(jnp.asarray(image)[None], size, size, kind)[0]
        assert host.dtype == np.uint8
        assert np.abs(host - np.asarray(device)).max() <= most


def test_legacy_differs_from_half_pixel_centres():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1) * 16
    legacy = resize.on_host(image, 8, 8, "legacy_bilinear")
    assert legacy[:, 0, 0].tolist() == [0, 32, 64, 96, 128, 160, 192, 192]


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 300))
def test_short_side(height, width, short):
    h, w = resize.short_side(height, width, short)
    assert min(h, w) == short
    assert max(h, w) == int(short * max(height, width) / min(height, width))
    assert (h <= w) == (height <= width) or h == w
