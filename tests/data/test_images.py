"""Odd image files become upright grey or RGB pixels, or an error that names them."""

import io
import struct
import zlib

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


def test_transparency_lies_on_the_background_or_is_dropped():
    shares = RNG.integers(0, 256, (6, 9, 1), np.uint8)
    data = encoded(Image.fromarray(np.concatenate([COLOUR, shares], axis=2)))
    for name, ground in (("white", 255), ("black", 0), ("#804020", (128, 64, 32))):
        found = images.decode(data, how=images.Decoding(background=name))
        expected = (COLOUR * (shares / 255) + ground * (1 - shares / 255)).round()
        assert np.abs(found - expected).max() <= 1, name
    assert (images.decode(data) == images.decode(data, how=images.Decoding("white"))).all()
    assert (images.decode(data, how=images.Decoding("none")) == COLOUR).all()


def test_opaque_pixels_stay_as_they_are():
    opaque = np.concatenate([COLOUR, np.full((6, 9, 1), 255, np.uint8)], axis=2)
    assert (images.decode(encoded(Image.fromarray(opaque))) == COLOUR).all()


def test_grey_with_transparency():
    grey = Image.new("LA", (4, 3), (90, 0))
    assert images.decode(encoded(grey)).tolist() == [[[255]] * 4] * 3
    assert images.decode(encoded(grey), how=images.Decoding("none")).tolist() == [[[90]] * 4] * 3
    keyed = encoded(Image.fromarray(np.array([[7, 8]], np.uint8)), transparency=7)
    assert images.decode(keyed, 3).tolist() == [[[255] * 3, [8] * 3]]


def test_palette_with_transparent_entries():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    for data in (
        encoded(image, transparency=bytes([0, 255])),
        encoded(image, "GIF", transparency=0),
    ):
        assert images.decode(data).tolist() == [[[255, 255, 255], [200, 100, 50]]]
        dropped = images.decode(data, how=images.Decoding("none"))
        assert dropped.tolist() == [[[10, 20, 30], [200, 100, 50]]]


@pytest.mark.parametrize("name", ["whit", "#12", "rgb(1"])
def test_a_background_that_is_no_colour(name):
    with pytest.raises(UserError, match=r"data.background"):
        images.Decoding(background=name).checked()


def test_cmyk_jpeg():
    image = Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK")
    array = images.decode(encoded(image, "JPEG", quality=100))
    assert array.shape == (16, 16, 3)
    assert np.abs(array.astype(int) - [200, 40, 90]).max() <= 4


def test_sixteen_bits_keep_the_high_byte():
    values = np.array([[0, 255, 256, 65535]], np.uint16)
    data = encoded(Image.fromarray(values))
    assert images.decode(data)[:, :, 0].tolist() == [[0, 0, 1, 255]]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_grey_values_use_the_range_of_their_bits(bits):
    values = np.array([[0, 1 << (bits - 1), (1 << bits) - 1]], np.uint16)
    assert images.decode(encoded(Image.fromarray(values)))[:, :, 0].tolist() == [[0, 128, 255]]
    tiff = encoded(Image.fromarray(values), "TIFF")
    assert images.decode(tiff, 3)[:, :, 2].tolist() == [[0, 128, 255]]


def test_bits_may_be_stated():
    data = encoded(Image.fromarray(np.array([[0, 800]], np.uint16)))
    assert images.decode(data)[0, 1, 0] == 200
    assert images.decode(data, how=images.Decoding(bits=12))[0, 1, 0] == 50
    with pytest.raises(ValueError, match=r"values up to 800, more than data.bits=9 hold"):
        images.decode(data, how=images.Decoding(bits=9))


def deep_png(values):
    """Returns a PNG of 16 bits a channel, which Pillow does not write."""
    height, width, channels = values.shape
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    kind = {3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")):
        crc = struct.pack(">I", zlib.crc32(name + body))
        out += struct.pack(">I", len(body)) + name + body + crc
    return out


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_colours_use_the_range_of_their_bits(bits):
    values = RNG.integers(0, 1 << bits, (5, 7, 3))
    values[0, 0] = (1 << bits) - 1
    assert (images.decode(deep_png(values)) == values >> (bits - 8)).all()
    opaque = np.concatenate([values, np.full((5, 7, 1), 65535)], axis=2)
    assert (images.decode(deep_png(opaque)) == values >> (bits - 8)).all()


def test_a_large_photo_is_read_by_an_option():
    data = encoded(Image.new("L", (50, 40)))
    with pytest.raises(images.TooLarge, match=r"40 x 50 pixels.*data.max_pixels=N"):
        images.decode(data, how=images.Decoding(max_pixels=1999))
    assert images.decode(data, how=images.Decoding(max_pixels=2000)).shape == (40, 50, 1)
    source = Source("photos", ["a"], Memory([Record(data, 0, "x.png")]), (None, None, 3))
    source.decoding = images.Decoding(max_pixels=10)
    with pytest.raises(UserError, match=r"example 0 \(x.png\) has 40 x 50 pixels"):
        source[0]


def test_a_photo_beyond_the_limit_of_pillow(monkeypatch):
    data = encoded(Image.new("L", (50, 40)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(images.TooLarge, match=r"data.max_pixels"):
        images.decode(data, how=images.Decoding(max_pixels=90))
    assert images.decode(data, how=images.Decoding(max_pixels=3000)).shape == (40, 50, 1)


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


def jpeg_with(*tags, order="<"):
    """Returns a JPEG 9 wide and 6 high, orientation 6, with tags (number, type, count, bytes)."""
    plain = encoded(Image.fromarray(COLOUR), "JPEG")
    entries = sorted([(0x112, 3, 1, struct.pack(order + "H", 6)), *tags])
    table = b"".join(struct.pack(order + "HHI", *t[:3]) + t[3].ljust(4, b"\0")[:4] for t in entries)
    tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    tiff += struct.pack(order + "H", len(entries)) + table + b"\0" * 4
    part = b"Exif\0\0" + tiff
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part + plain[2:]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    "tag",
    [
        (34665, 4, 1, b"\xff\xff\xff\xff"),  # a table far outside of the file
        (34665, 4, 1, struct.pack("<I", 8)),  # the table itself
        (282, 5, 1, struct.pack("<I", 99999)),  # a value outside
        (270, 2, 2**31, b"text"),  # longer than the file
        (259, 77, 1, b"\0"),  # an unknown type
        (531, 11, 1, struct.pack("<f", 1.5)),
    ],
)
def test_only_the_orientation_is_read(tag, order):
    assert images.decode(jpeg_with(tag, order=order)).shape == (9, 6, 3)


def test_damaged_exif_is_no_exif():
    data = jpeg_with()
    cut = data.replace(b"II*\0\x08", b"II*\0\xf8")
    assert images.decode(cut).shape == (6, 9, 3)
    odd = data.replace(struct.pack("<HHI", 0x112, 3, 1), struct.pack("<HHI", 0x112, 2, 1))
    assert images.decode(odd).shape == (9, 6, 3)  # as text: its value is still there
    assert images.decode(jpeg_with() + b"after the end").shape == (9, 6, 3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_other_formats_are_turned_once(kind):
    exif = Image.Exif()
    exif[0x0112], exif[305] = 6, "a program"
    assert images.decode(encoded(Image.fromarray(COLOUR), kind, exif=exif), 3).shape == (9, 6, 3)


def test_orientation_in_xmp():
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    data = encoded(Image.fromarray(COLOUR), "JPEG", xmp=xmp)
    assert images.decode(data).shape == (9, 6, 3)


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
