"""Handwritten digits, 8x8 pixels: the data set that needs no download.

1,797 grey images by 13 writers: the test part of "Optical Recognition of Handwritten Digits" by
E. Alpaydin and C. Kaynak (UCI Machine Learning Repository, 1998; CC BY 4.0), made into
`assets/digits.npz` from the copy in scikit-learn (BSD 3-clause). A value counts the inked pixels,
0 to 16, of a 4x4 block; it becomes 0 to 255.

Two halves of five classes each, so that a small model can be pre-trained on one and tuned to the
other: "digits/low" holds 0-4, "digits/high" 5-9. A seeded permutation of all images put 1,437 in
train and 360 in test. The file holds low/train, low/test, high/train and high/test in this order.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from vpjax.core.errors import unknown
from vpjax.data.records import Piece, Record, parse_split
from vpjax.data.source import Source

FILE = Path(__file__).parent / "assets" / "digits.npz"
VERSION = "1.0.0"
CLASSES = {"low": range(0, 5), "high": range(5, 10)}
ROWS = {  # of the file
    "low": {"train": range(0, 708), "test": range(708, 901)},
    "high": {"train": range(901, 1630), "test": range(1630, 1797)},
}


def open_digits(name: str, split: str) -> Source:
    """Open a split of "digits/low" or "digits/high": train, test, slices and sum.

    Raises: UserError for another name, or a split that does not exist.
    """
    half = name.removesuffix(f":{VERSION}").removeprefix("digits/")
    if half not in ROWS:
        raise unknown("half of the digits", name, [f"digits/{half}" for half in ROWS])
    where, rows = f"digits/{half}:{VERSION}", ROWS[half]

    def count(part: str) -> int:
        if part not in rows:
            raise unknown(f"split of {where}", part, rows)
        return len(rows[part])

    chosen = [rows[part][start:stop] for part, start, stop in parse_split(split, count)]
    classes = [str(digit) for digit in CLASSES[half]]
    return Source(f"{where}[{split}]", classes, Digits(chosen, CLASSES[half][0]), (8, 8, 1))


def load() -> tuple[UInt8[np.ndarray, "n 8 8"], Int64[np.ndarray, " n"]]:
    """Return all images, in 0..255, and the digit each one shows."""
    with np.load(FILE) as file:
        images, digits = file["images"], file["digits"]
    return np.rint(images * (255 / 16)).astype(np.uint8), digits.astype(np.int64)


class Digits:
    """The digits of some rows of the file, as PNG so that fingerprints stay what they were."""

    def __init__(self, rows: Sequence[range], first_digit: int):
        images, digits = load()
        self.pieces = [Piece(str(FILE), r.start, r.stop) for r in rows if r]
        self._records = [
            Record(_png(images[i]), int(digits[i]) - first_digit) for part in rows for i in part
        ]

    def __len__(self) -> int:
        return len(self._records)

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        return [self._records[i] for i in indices]


def _png(image: UInt8[np.ndarray, "H W"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()
