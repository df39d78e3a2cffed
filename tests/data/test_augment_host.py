"""Random operations on the host: parts of images, RandAugment, and how text says them."""

import numpy as np
import pytest
from PIL import Image

from vpjax.core.errors import UserError
from vpjax.data import Loader, from_arrays, preset
from vpjax.data.augment_host import OPERATIONS, part, rand_augment, settings
from vpjax.data.transforms import with_augment

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_parts_have_the_area_and_the_aspect_that_are_asked_for():
    boxes = [part(300, 400, (0.2, 0.5), rng(seed)) for seed in range(400)]
    areas = np.array([b.height * b.width / 120_000 for b in boxes])
    aspects = np.array([b.width / b.height for b in boxes])
    assert 0.199 < areas.min() < 0.22 and 0.48 < areas.max() < 0.501
    assert 0.74 < aspects.min() < 0.77 and 1.3 < aspects.max() < 1.34
    assert areas.mean() == pytest.approx(0.35, abs=0.02)  # uniform
    assert np.log(aspects).mean() == pytest.approx(0, abs=0.03)
    assert all(b.top >= 0 and b.top + b.height <= 300 for b in boxes)
    assert all(b.left >= 0 and b.left + b.width <= 400 for b in boxes)
    assert len({(b.top, b.left) for b in boxes}) > 390


@pytest.mark.parametrize("size, expected", [((10, 300), (10, 13)), ((300, 10), (13, 10))])
def test_a_long_image_has_its_centre_taken(size, expected):
    box = part(*size, (0.9, 1.0), rng())
    assert (box.height, box.width) == expected
    assert box.top == (size[0] - box.height) // 2 and box.left == (size[1] - box.width) // 2


def test_random_resized_crop_of_a_preset():
    chosen = preset("imagenet,random_resized_crop=0.3/0.6")
    assert chosen.name.startswith("bicubic,random_resized_crop=0.3/0.6,mean=")
    one, other = (chosen.host(PHOTO, 24, True, rng(s)) for s in (1, 2))
    assert one.shape == other.shape == (24, 24, 3) and not np.array_equal(one, other)
    np.testing.assert_array_equal(one, chosen.host(PHOTO, 24, True, rng(1)))
    plain = preset("imagenet").host(PHOTO, 24, False)
    np.testing.assert_array_equal(chosen.host(PHOTO, 24, False), plain)


@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_keeps_shape_and_type(channels):
    seen = set()
    for seed in range(60):
        made = rand_augment(PHOTO[..., :channels], (9, 2, 0.5), (0.5,) * 3, rng(seed))
        assert made.shape == (40, 60, channels) and made.dtype == np.uint8
        seen.add(made.tobytes())
    assert len(seen) > 30  # a quarter of all has neither operation
    same = [
        np.array_equal(rand_augment(PHOTO, (9, 2, 0.5), (0.5,) * 3, rng(s)), PHOTO)
        for s in range(200)
    ]
    assert 0.15 < np.mean(same) < 0.4


def test_rand_augment_of_strength_nothing_moves_nothing():
    moves = [n for n in OPERATIONS if n.startswith(("shear", "translate", "rotate"))]
    for name in moves:
        made = OPERATIONS[name](Image.fromarray(PHOTO), 0.0, 1.0, (0, 0, 0), 3)
        np.testing.assert_array_equal(np.asarray(made), PHOTO)


WRONG = {
    "random_resized_crop=0/1": "expected random_resized_crop=0.08/1.0",
    "random_resized_crop=0.5/0.2": "or like it",
    "random_resized_crop=0.5/0.6/0.7": "or like it",
    "rand_augment=11": "strength of 0 to 10",
    "rand_augment=9/1.5": "a whole number",
    "rand_augment=high": "expected numbers",
}


@pytest.mark.parametrize("op", WRONG)
def test_wrong_numbers(op):
    with pytest.raises(UserError, match=WRONG[op]):
        preset(f"imagenet,{op}")


def test_what_does_not_go_together():
    with pytest.raises(UserError, match="resizes nothing"):
        preset("none,random_resized_crop,mean=0,std=1")
    with pytest.raises(UserError, match="needs whole levels"):
        preset("vpt_vtab,rand_augment")
    with pytest.raises(UserError, match="unknown data.augment 'crop'.*random_crop"):
        with_augment(preset("imagenet"), "crop=0.3")
    assert with_augment(preset("imagenet"), "") is preset("imagenet")
    both = with_augment(preset("imagenet_crop"), " rand_augment=5 ")
    assert both.augment == ("random_crop", "flip", "rand_augment=5")


def test_settings_of_shorter_forms():
    assert settings("random_resized_crop") == (0.08, 1.0)
    assert settings("random_resized_crop=0.35") == (0.35, 1.0)
    assert settings("rand_augment=7/3") == (7, 3, 0.5)


def test_a_loader_augments_images_of_the_right_size_too():
    images = np.repeat(PHOTO[None, :16, :16], 6, axis=0)
    source = from_arrays(images, [0, 1, 0, 1, 0, 1])
    chosen = with_augment(preset("inception"), "random_resized_crop=0.2/0.5")
    batch = next(Loader(source, 6, chosen, 16).batches())["image"]
    assert len({image.tobytes() for image in batch}) == 6
    again = next(Loader(source, 6, chosen, 16).batches())["image"]
    np.testing.assert_array_equal(batch, again)
    still = next(Loader(source, 6, chosen, 16, train=False).batches())["image"]
    np.testing.assert_array_equal(still, images)
