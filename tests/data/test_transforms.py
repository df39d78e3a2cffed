"""Presets and the augmentations inside the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image

from vpjax.core.errors import UserError
from vpjax.data import PRESETS, augment, preset, resize

RNG = np.random.default_rng(0)
BATCH = RNG.integers(0, 256, (8, 12, 12, 3), np.uint8)
KEY = jax.random.key(0)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("train", [True, False])
def test_every_preset_makes_model_input(name, channels, train):
    chosen = preset(name)
    images = BATCH[..., :channels]
    size = 12 if chosen.rule == "none" else 10
    if chosen.on_host((12, 12, channels), size):
        rngs = [np.random.default_rng(i) for i in range(8)]
        images = np.stack(
            [chosen.host(x, size, train, rng) for x, rng in zip(images, rngs, strict=True)]
        )
        assert images.shape == (8, size, size, channels) and images.dtype == chosen.host_dtype()
    out = chosen.device(images, size, train, KEY, jnp.bfloat16)
    assert out.shape == (8, size, size, 3) and out.dtype == jnp.bfloat16
    low = ((0 - np.array(chosen.mean)) / chosen.std).min()
    high = ((1 - np.array(chosen.mean)) / chosen.std).max()
    assert low - 0.02 <= out.min() and out.max() <= high + 0.02


def test_recorded_settings():
    """The short side before a crop, and what is done with the aspect."""
    sizes = [(s, s * 8 // 7) for s in (112, 224, 336, 384, 448)]
    assert sizes == [(112, 128), (224, 256), (336, 384), (384, 438), (448, 512)]
    for name in ("vpt_fgvc", "sa2vp_fgvc", "imagenet_crop"):
        assert preset(name).short == (8, 7) and preset(name).augment == ("random_crop", "flip")
    assert preset("imagenet").mean == preset("vpt_fgvc").mean == (0.485, 0.456, 0.406)
    assert preset("imagenet").std == preset("vpt_fgvc").std == (0.229, 0.224, 0.225)
    assert preset("clip").short == (1, 1)
    stretched = {name for name, p in PRESETS.items() if p.rule == "stretch"}
    assert {"vpt_vtab", "ssf_vtab", "noah_vtab", "raw_vtab", "sa2vp_vtab", "imagenet"} <= stretched
    assert all(p.resize in resize.KINDS for p in PRESETS.values() if p.rule != "none")
    assert preset("msvp_cifar").std != preset("vitb4_cifar").std


@pytest.mark.parametrize("crop", [28, 30, 17])
def test_any_crop_has_a_short_side(crop):
    """The published code knows 224, 384 and 448 alone."""
    photo = RNG.integers(0, 256, (61, 90, 3), np.uint8)
    short = crop * 256 // 224
    whole = np.asarray(
        Image.fromarray(photo).resize((short * 90 // 61, short), Image.Resampling.BILINEAR)
    )
    top, left = round((short - crop) / 2), round((whole.shape[1] - crop) / 2)
    cropped = preset("vpt_fgvc").host(photo, crop, False)
    assert (cropped == whole[top : top + crop, left : left + crop]).all()


def test_normalisation():
    out = preset("raw_vtab").device(BATCH, 12, False)
    np.testing.assert_allclose(out, BATCH / 255.0, atol=1e-6)
    out = preset("ssf_vtab").device(BATCH, 12, False)
    np.testing.assert_allclose(out, BATCH / 127.5 - 1, atol=1e-6)


def test_stretching_small_images_equals_the_host():
    shown = preset("sa2vp_vtab")
    host = np.stack([shown.host(image, 24, False) for image in BATCH])
    difference = shown.device(BATCH, 24, False) - shown.device(host, 24, False)
    assert np.abs(difference).max() <= 1.01 / 127.5  # one grey level


def test_where_the_work_is_done():
    vtab, fgvc = preset("inception"), preset("vpt_fgvc")
    assert not vtab.on_host((32, 32, 3), 224)  # small images grow on the device
    assert vtab.on_host((256, 256, 3), 224)
    assert vtab.on_host((None, None, 3), 224)
    assert fgvc.on_host((224, 224, 3), 224)
    assert fgvc.random_on_host(True) and not fgvc.random_on_host(False)


def test_a_preset_that_does_not_resize():
    with pytest.raises(UserError, match="images are 32x32 and image_size is 224"):
        preset("msvp_cifar").on_host((32, 32, 3), 224)
    with pytest.raises(UserError, match="images are of varying size"):
        preset("msvp_cifar").on_host((None, None, 3), 32)
    with pytest.raises(UserError, match="got a batch of 12x12 images for image_size 10"):
        preset("msvp_cifar").device(BATCH, 10, False)


def test_unknown_preset():
    with pytest.raises(UserError, match="Did you mean 'vpt_vtab'"):
        preset("vpt_vtb")


def test_flip_mirrors_about_half():
    images = jnp.asarray(RNG.integers(0, 256, (400, 2, 3, 1)), jnp.float32)
    out = augment.flip(images, KEY)
    mirrored = (out == images[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (out == images).all((1, 2, 3))).all()
    assert 160 < mirrored.sum() < 240


def test_pad_crop_cuts_everywhere():
    images = jnp.ones((2000, 6, 6, 1)).at[:, 0, 0].set(2)  # a mark in the corner
    out = np.asarray(augment.pad_crop(images, KEY))[..., 0]
    padded = np.pad(np.asarray(images[0, :, :, 0]), 4)
    windows = {
        padded[top : top + 6, left : left + 6].tobytes() for top in range(9) for left in range(9)
    }
    assert {image.tobytes() for image in out} == windows


def test_rotation_equals_pillow():
    image = RNG.integers(1, 256, (28, 28), np.uint8)
    for degrees in (-10.0, -3.3, 0.0, 0.7, 10.0):
        turned = augment.turn(jnp.asarray(image, jnp.float32)[:, :, None], jnp.float32(degrees))
        expected = np.asarray(Image.fromarray(image).rotate(degrees, Image.Resampling.NEAREST))
        differ = (np.asarray(turned)[:, :, 0] != expected).sum()
        assert differ <= 8, degrees  # pixels that fall on an edge between two


def test_rotation_angles():
    images = jnp.zeros((64, 9, 9, 1)).at[:, 4].set(255.0)
    out = augment.rotate(images, KEY)
    assert len({image.tobytes() for image in np.asarray(out)}) > 1
    assert (out[:, 4, 4] == 255).all()


@pytest.mark.parametrize("name", ["msvp_mnist", "msvp_cifar", "vpt_fgvc"])
def test_augmentation_does_not_depend_on_sharding(name):
    chosen = preset(name)
    step = jax.jit(lambda x, key: chosen.device(x, 12, True, key))
    one = step(BATCH, KEY)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(BATCH, NamedSharding(mesh, PartitionSpec("data")))
    eight = step(spread, jax.device_put(KEY, NamedSharding(mesh, PartitionSpec())))
    np.testing.assert_array_equal(one, eight)
    assert (step(BATCH, jax.random.key(1)) != one).any()


def test_evaluation_is_not_augmented():
    chosen = preset("vitb4_cifar")
    plain = (BATCH / 255 - np.array(chosen.mean)) / np.array(chosen.std)
    np.testing.assert_allclose(chosen.device(BATCH, 12, False, KEY), plain, atol=1e-5)


def test_random_crop_on_the_host():
    chosen = preset("vpt_fgvc")
    photo = RNG.integers(0, 256, (40, 90, 3), np.uint8)
    crops = {chosen.host(photo, 28, True, np.random.default_rng(i)).tobytes() for i in range(30)}
    assert len(crops) > 20
    again = [chosen.host(photo, 28, True, np.random.default_rng(5)) for _ in range(2)]
    assert (again[0] == again[1]).all()


def test_images_may_be_rectangles():
    photo = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    assert preset("inception").host(photo, (16, 24), train=True).shape == (16, 24, 3)
    batch = np.stack([photo[:10, :10]] * 2)
    assert preset("inception").device(batch, (16, 24), train=False).shape == (2, 16, 24, 3)
    assert preset("vpt_vtab").device(batch, (16, 24), train=False).shape == (2, 16, 24, 3)
    with pytest.raises(UserError, match="crops squares, and image_size is 16x24"):
        preset("vpt_fgvc").on_host((None, None, 3), (16, 24))
    with pytest.raises(UserError, match="image_size is 16x24"):
        preset("vitb4_cifar").on_host((32, 32, 3), (16, 24))


def test_grey_images_stay_grey_for_models_of_one_channel():
    grey = BATCH[..., :1]
    out = preset("msvp_mnist").device(grey, 12, False, channels=1)
    np.testing.assert_allclose(out, grey / 127.5 - 1, atol=1e-6)
    out = preset("msvp_cifar").device(grey, 12, False, channels=1)
    mean, std = (np.mean(getattr(preset("msvp_cifar"), k)) for k in ("mean", "std"))
    np.testing.assert_allclose(out, (grey / 255 - mean) / std, atol=1e-5)
    with pytest.raises(UserError, match="Set backbone.channels=3"):
        preset("msvp_mnist").device(BATCH, 12, False, channels=1)
