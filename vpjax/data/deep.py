"""Values of more than 8 bits: cameras, microscopes and X-rays fill 10 to 14 bits of a file's 16.

    eight_bits(values)        the highest 8 of the bits that the picture's range needs
    eight_bits(values, 12)    the highest 8 of 12

Pillow keeps grey values whole, but of colours the high byte alone, which has 16 levels where a
camera wrote 12 bits. It has the low byte too, if it is told that the bytes lie the other way round.
"""

import sys
from collections.abc import Callable

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # modes of Pillow
DEPTHS = (8, 10, 12, 14, 16)
NATIVE = "16L" if sys.byteorder == "little" else "16B"


def depth(highest: int) -> int:
    """Return the smallest usual number of bits that holds a value.

    Raises: ValueError for more than 16 bits.
    """
    found = next((bits for bits in DEPTHS if highest < 1 << bits), None)
    if found is None:
        raise ValueError(
            f"values up to {highest} have more than 16 bits, and no usual range; say it with "
            "--config.data.bits=N, up to 32"
        )
    return found


def eight_bits(values: Integer[np.ndarray, "H W *C"], bits: int = 0) -> UInt8[np.ndarray, "H W *C"]:
    """Return values as 0 to 255.

    Args:
        values: from 0.
        bits: that the full range has; 0: as many as the largest value needs.

    Raises:
        ValueError: for values below 0 or above the range.
    """
    lowest, highest = int(values.min(initial=0)), int(values.max(initial=0))
    if lowest < 0:
        raise ValueError(f"values down to {lowest}; expected none below 0")
    if bits and highest >= 1 << bits:
        raise ValueError(f"values up to {highest}, more than data.bits={bits} hold; raise it")
    return (values.astype(np.int64) >> ((bits or depth(highest)) - 8)).astype(np.uint8)


def other_byte(image: Image.Image) -> Callable[[Image.Image], None] | None:
    """Return what makes Pillow read the other byte of an opened image's colours.

    Args:
        image: opened, not loaded yet.

    Returns:
        A function that changes the image of the same file, opened again; None where colours have 8
        bits, or are stored in another way.
    """
    changed = []
    for tile in image.tile:
        # The way of storing is the whole of the decoder's arguments, or the first of them.
        mode, *more = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        kind, _, order = str(mode).partition(";")
        if kind not in ("RGB", "RGBA") or order not in ("16B", "16L", "16N"):
            return None
        other = {"16B": "16L", "16L": "16B"}[NATIVE if order == "16N" else order]
        mode = f"{kind};{other}"
        changed.append(tile[:3] + ((mode, *more) if isinstance(tile[3], tuple) else mode,))
    if not changed:
        return None
    named = getattr(type(image.tile[0]), "_make", tuple)  # plain tuples in old versions

    def change(again: Image.Image) -> None:
        again.tile = [named(tile) for tile in changed]

    return change


def narrow(high: Image.Image) -> bool:
    """Whether the high bytes of colours show that their range has fewer than 16 bits."""
    return int(np.asarray(high)[:, :, :3].max(initial=0)) < 64


def whole_colours(high: Image.Image, low: Image.Image, bits: int = 0) -> Image.Image:
    """Return an image in colour with the highest 8 of the bits that its range needs.

    Args:
        high: the high bytes, with an alpha channel or not.
        low: the low bytes.
        bits: see `eight_bits`.
    """
    top = np.asarray(high)
    values = top[:, :, :3].astype(np.int64) << 8 | np.asarray(low)[:, :, :3]
    return Image.fromarray(np.concatenate([eight_bits(values, bits), top[:, :, 3:]], axis=2))
