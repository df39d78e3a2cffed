"""Decodes image files to upright uint8 pixels with one or three channels.

Every kind of file in real data sets becomes plain grey or RGB: CMYK, palettes, transparency, 16
bits a channel, photos that their EXIF tag rotates. Nothing is ever substituted for a file that
cannot be read.
"""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
GREY = ("L", "LA", "La", "1", *SIXTEEN_BIT)


def decode(data: bytes, channels: int | None = None) -> UInt8[np.ndarray, "H W C"]:
    """Decode a JPEG, PNG or any other still image that Pillow can read.

    Transparency is dropped, not blended. Of 16-bit values the high byte is kept.

    Args:
        data: content of a file.
        channels: 1 for grey, 3 for RGB; None keeps grey as H W 1 and makes the rest H W 3.

    Raises:
        OSError, SyntaxError or ValueError: from Pillow, if the bytes are no complete image.
    """
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise ValueError(f"no known image format, {len(data)} bytes {data[:12]}") from error
    with image:
        image.load()
        return pixels(ImageOps.exif_transpose(image), channels)


def pixels(image: Image.Image, channels: int | None = None) -> UInt8[np.ndarray, "H W C"]:
    """Return the pixels of an opened image; see `decode`."""
    if channels is None:
        channels = 1 if image.mode in GREY else 3
    if image.mode in SIXTEEN_BIT:
        # Pillow's own conversion clips at 255 instead of scaling.
        high = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255)
        image = Image.fromarray(high.astype(np.uint8))
    if image.mode == "P":
        # Straight to RGB, Pillow warns about palettes with transparent entries.
        image = image.convert("RGBA")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range")
    image = image.convert("L" if channels == 1 else "RGB")
    array = np.asarray(image, dtype=np.uint8)
    return array[:, :, None] if channels == 1 else array
