"""Decodes image files to upright uint8 pixels with one or three channels.

Every kind of file in real data sets becomes plain grey or RGB: CMYK, palettes, transparency, more
than 8 bits a channel, photos that their EXIF tag rotates. Nothing is ever substituted for a file
that cannot be read. Where a choice is to be made, `Decoding` states it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageColor, PngImagePlugin, UnidentifiedImageError

from vpjax.core.errors import UserError, unknown
from vpjax.data import deep, exif
from vpjax.data.decoders import open_image

GREY = ("L", "LA", "La", "1", *deep.GREY)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Text in a PNG stops no picture: Pillow's own bound is 1 MiB, and editors write more.
PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, 64 * 2**20)
PngImagePlugin.MAX_TEXT_MEMORY = max(PngImagePlugin.MAX_TEXT_MEMORY, 256 * 2**20)


class Decoding(NamedTuple):
    """How files become pixels, where files of one kind can be read in several ways.

    Attributes:
        background: what transparent pixels lie on, a colour's name or "#rrggbb"; "none" drops the
            transparency, and keeps the colours behind it.
        max_pixels: height x width up to which a picture is read; larger ones may be an attack.
        bits: of grey values in files of more than 8; 0: as many as the picture's range needs.
    """

    background: str = "white"
    max_pixels: int = 178_956_970  # where Pillow refuses by default
    bits: int = 0

    def checked(self) -> "Decoding":
        """Return itself.

        Raises: UserError for a colour that does not exist, or a number out of range.
        """
        colour(self.background)
        if self.max_pixels < 1:
            raise UserError(f"data.max_pixels is {self.max_pixels}; it must be above 0.")
        if self.bits and not 8 <= self.bits <= 32:
            raise UserError(f"data.bits is {self.bits}; choose 8 to 32, or 0 for each one's range.")
        return self


PLAIN = Decoding()


class TooLarge(ValueError):
    """A picture has more pixels than `Decoding.max_pixels`."""


def colour(name: str) -> tuple[int, int, int] | None:
    """Return red, green and blue of a background; None for "none".

    Raises: UserError for a colour that does not exist.
    """
    if name.strip().lower() == "none":
        return None
    try:
        return ImageColor.getrgb(name.strip())[:3]
    except ValueError as error:
        if name[:1] in "#rh" and not name.isalpha():
            raise UserError(
                f"data.background is {name!r}, which is no colour; expected a name, such as "
                "'white', or '#rrggbb', or 'none'."
            ) from error
        raise unknown("data.background", name, [*ImageColor.colormap, "none"]) from error


def decode(
    data: bytes, channels: int | None = None, how: Decoding = PLAIN
) -> UInt8[np.ndarray, "H W C"]:
    """Decode a JPEG, PNG or another still image of `vpjax.data.decoders`.

    Args:
        data: content of a file.
        channels: 1 for grey, 3 for RGB; None keeps grey as H W 1 and makes the rest H W 3.
        how: what transparent pixels lie on, and the like.

    Raises:
        OSError, SyntaxError or ValueError: from Pillow, if the bytes are no complete image;
            `TooLarge` if there are too many pixels.
    """
    return decode_with_kind(data, channels, how)[0]


def decode_with_kind(
    data: bytes, channels: int | None = None, how: Decoding = PLAIN
) -> tuple[UInt8[np.ndarray, "H W C"], str]:
    """Decode as `decode` does, and say in words what the file holds.

    Returns:
        The pixels; and Pillow's mode, with the bits in use, and whether EXIF turns the image.
    """
    image, turn = load(data, how)
    with image:
        words = [image.mode]
        if image.mode in deep.GREY and not how.bits:
            words.append(f"of {deep.depth(int(np.asarray(image).max(initial=0)))} bits")
        elif image.mode in ("RGB", "L") and image.has_transparency_data:
            words.append("transparent")
        words += ["turned"] * (turn in TURNS)
        upright = image.transpose(TURNS[turn]) if turn in TURNS else image
        return pixels(upright, channels, how), " ".join(words)


def load(data: bytes, how: Decoding = PLAIN, quick: bool = False) -> tuple[Image.Image, int]:
    """Return an image with its pixels loaded, not turned yet, and its orientation, 1 to 8.

    Args:
        data: content of a file.
        how: see `decode`.
        quick: whether a JPEG is decoded at an eighth of its size: its whole content is read, but
            in a fraction of the time.

    Raises: as `decode`.
    """
    whole = data
    data, turn = exif.without_metadata(data)
    # Pillow has one limit for the process; ours is the size of this picture.
    if Image.MAX_IMAGE_PIXELS is not None and how.max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = how.max_pixels
    try:
        image = open_image(data)
    except UnidentifiedImageError as error:
        raise ValueError(f"no known image format, {len(whole)} bytes {whole[:12]}") from error
    except Image.DecompressionBombError as error:
        raise TooLarge(_too_large(str(error).partition(",")[0].rstrip("."), how)) from error
    width, height = image.size
    if width * height > how.max_pixels:
        image.close()
        raise TooLarge(_too_large(f"{height} x {width} pixels", how))
    # Pillow reads the tags of a TIFF while it loads it, and in some versions turns it: it is told
    # of the orientation alone, which it takes away where it does.
    tags = _tell(image)
    if quick:
        image.draft(None, (1, 1))
    other = deep.other_byte(image)
    image.load()
    turn, info = tags.get(exif.TAG, turn), image.info
    if turn == 1 and isinstance(block := info.get("exif"), bytes):
        turn = exif.orientation(block)
    if turn == 1 and (text := info.get("xmp") or info.get("XML:com.adobe.xmp")):
        turn = exif.of_xmp(text)
    if turn == 1 and isinstance(text := info.get("Raw profile type exif"), str):
        turn = _profile(text)
    if other is not None and (how.bits or deep.narrow(image)):
        with open_image(data) as low:
            other(low)
            _tell(low)
            image = deep.whole_colours(image, low, how.bits)
    return image, turn


def _too_large(what, how):
    return (
        f"{what}, more than the {how.max_pixels} of data.max_pixels. If it is an honest photo, "
        "raise that: --config.data.max_pixels=N"
    )


def _tell(image):
    """Let Pillow know of an image's EXIF only the orientation of a TIFF; return what it is told."""
    tags = Image.Exif()
    if "tag_v2" in vars(image):
        try:
            tags[exif.TAG] = int(image.tag_v2.get(exif.TAG, 1))
        except Exception:  # any damage of a tag; the pixels may be sound
            tags[exif.TAG] = 1
    image.getexif = lambda: tags
    return tags


def _profile(text):
    """Return the orientation of an EXIF block in hexadecimal, as some programs write it in PNGs."""
    try:
        return exif.orientation(bytes.fromhex("".join(text.split("\n")[3:])))
    except ValueError:
        return 1


def pixels(
    image: Image.Image, channels: int | None = None, how: Decoding = PLAIN
) -> UInt8[np.ndarray, "H W C"]:
    """Return the pixels of a loaded image; see `decode`."""
    if channels is None:
        channels = 1 if image.mode in GREY else 3
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range")
    if image.mode in deep.GREY:
        image = Image.fromarray(deep.eight_bits(np.asarray(image), how.bits))
    elif image.has_transparency_data or image.mode == "P":
        image = _on_background(image.convert("RGBA"), colour(how.background))
    image = image.convert("L" if channels == 1 else "RGB")
    array = np.asarray(image, dtype=np.uint8)
    return array[:, :, None] if channels == 1 else array


def _on_background(image, background):
    if background is None:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
