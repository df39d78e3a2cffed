"""What a data set is made of: records, and the split strings that choose among them.

    parse_split("train[:800]+val[50%:]", count)    [("train", 0, 800), ("val", 100, 200)]

Split strings are those of TFDS: names, slices in images or percent, sums. Nothing here knows a
file format.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from vpjax.core.errors import UserError

PART = re.compile(r"\s*(\w+)\s*(?:\[\s*(-?\d+%?)?\s*:\s*(-?\d+%?)?\s*\])?\s*")

T = TypeVar("T")


class Record(NamedTuple):
    """One example as it is stored."""

    image: bytes | np.ndarray  # an encoded file, or uint8 H W C
    label: int | tuple[int, ...]  # a tuple where the source is multilabel
    file: str | None = None  # file name or key, for messages


class Piece(NamedTuple):
    """A range of stored images: `start` to before `stop` in a file."""

    file: str
    start: int
    stop: int


@runtime_checkable
class Records(Protocol):
    """What a `Source` reads from; safe to use from several threads.

    Three more attributes are optional:
        labels: int64 n, or n C of zeros and ones: all labels, where they are known without reading
            the images.
        names: path or key of every image.
        pieces: a list of `Piece`, where the images are stored.
    """

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> list[Record]: ...


def parse_split(split: str, count: Callable[[str], int]) -> list[tuple[str, int, int]]:
    """Return (whole split, first image, end) of each part of a split string.

    Args:
        split: such as "train", "train[:90%]" or "train[:800]+val[100:200]".
        count: returns the number of images of a whole split.

    Raises:
        UserError: for what is no split string, or a slice outside of a split.
    """
    parts = []
    for part in split.split("+"):
        match = PART.fullmatch(part)
        if not match:
            raise UserError(
                f"split {split!r} cannot be read at {part.strip()!r}; expected a name with an "
                "optional slice, such as 'train', 'train[:90%]' or 'train[:800]+val[100:200]'."
            )
        n = count(match[1])
        start, stop = (_position(t, d, n, part) for t, d in ((match[2], 0), (match[3], n)))
        parts.append((match[1], start, max(start, stop)))
    return parts


def _position(text, default, n, part):
    """Return where a slice begins or ends; percent are rounded as in TFDS."""
    if text is None:
        return default
    position = round(int(text[:-1]) * n / 100) if text.endswith("%") else int(text)
    if not -n <= position <= n:
        raise UserError(f"split {part.strip()!r}: {text} is outside of its {n} images.")
    return position + n if position < 0 else position


def select_split(split: str, load: Callable[[str], Sequence[T]]) -> list[T]:
    """Return the items of a split string; `load` returns those of a whole split.

    Raises: UserError as `parse_split` does.
    """
    load = functools.cache(load)
    items = []
    for name, start, stop in parse_split(split, lambda name: len(load(name))):
        items += load(name)[start:stop]
    return items


def select_arrays(split: str, load: Callable[[str], tuple[np.ndarray, ...]]) -> list[tuple]:
    """Return the arrays of each part of a split string.

    Args:
        split: the split string.
        load: returns those of a whole split, n rows each.

    Raises:
        UserError: as `parse_split` does.
    """
    load = functools.cache(load)
    parts = parse_split(split, lambda name: len(load(name)[0]))
    return [tuple(array[start:stop] for array in load(name)) for name, start, stop in parts]


def label_message(name: str, index: int, label: int, num_classes: int) -> str:
    """Return the message for a label that is out of range."""
    hint = " Label -1 marks an example without a label." if label == -1 else ""
    return (
        f"{name}: example {index} has label {label}, but labels should be in "
        f"0..{num_classes - 1}.{hint} Choose another split or another number of classes."
    )
