"""Odd image files become upright grey or RGB pixels, or an error that names them."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import Memory
from vpjax.core.errors import UserError
from vpjax.data import images
from vpjax.data.records import Record
from vpjax.data.source import Source

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 9, 3), np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_rgb_and_grey_are_exact():
    assert (images.decode(encoded(Image.fromarray(COLOUR))) == COLOUR).all()
    grey = images.decode(encoded(Image.fromarray(COLOUR[:, :, 0])))
    assert (grey == COLOUR[:, :, :1]).all()
    assert (images.decode(encoded(Image.fromarray(COLOUR[:, :, 0])), 3) == COLOUR[:, :, :1]).all()


def test_transparency_is_dropped():
    alpha = np.concatenate([COLOUR, RNG.integers(0, 256, (6, 9, 1), np.uint8)], axis=2)
    assert (images.decode(encoded(Image.fromarray(alpha))) == COLOUR).all()
    grey = Image.new("LA", (4, 3), (90, 7))
    assert images.decode(encoded(grey)).tolist() == [[[90]] * 4] * 3


def test_palette_with_transparent_entries():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    data = encoded(image, transparency=bytes([0, 255]))
    assert images.decode(data).tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_cmyk_jpeg():
    image = Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK")
    array = images.decode(encoded(image, "JPEG", quality=100))
    assert array.shape == (16, 16, 3)
    assert np.abs(array.astype(int) - [200, 40, 90]).max() <= 4


def test_sixteen_bits_keep_the_high_byte():
    values = np.array([[0, 255, 256, 65535]], np.uint16)
    data = encoded(Image.fromarray(values))
    assert images.decode(data)[:, :, 0].tolist() == [[0, 0, 1, 255]]


def test_one_bit():
    image = Image.fromarray(np.array([[True, False]]))
    assert images.decode(encoded(image))[:, :, 0].tolist() == [[255, 0]]


# How a picture must be stored so that turning it as the EXIF tag says makes it upright.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_rotation_is_undone(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(COLOUR).transpose(STORED[orientation])
    assert (images.decode(encoded(stored, exif=exif)) == COLOUR).all()


def test_unreadable_images_name_data_set_index_and_file():
    good = encoded(Image.fromarray(COLOUR), "JPEG")
    bad = {1: b"", 2: b"<html>404</html>", 3: good[: len(good) // 2]}
    records = [Record(bad.get(i, good), 0, f"photo-{i}.jpg") for i in range(5)]
    source = Source("photos:1.0.0[train]", ["a"], Memory(records), (None, None, 3))
    for i in bad:
        match = rf"photos:1.0.0\[train\]: example {i} \(photo-{i}.jpg\) is not a readable image"
        with pytest.raises(UserError, match=match):
            source[i]
    assert source[4]["image"].shape == (6, 9, 3)


def test_a_size_that_should_be_fixed():
    records = [Record(encoded(Image.fromarray(COLOUR)), 0)]
    source = Source("photos", ["a"], Memory(records), (8, 8, 3))
    with pytest.raises(UserError, match=r"has shape \(6, 9, 3\)"):
        source[0]
