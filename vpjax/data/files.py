"""Image files of a folder as records, and split strings over lists of them.

    splits("train[:800]+val[50%:]", load)   # load("train") -> [("cat/1.jpg", 0), ...]

Split strings are those of TFDS: names, slices in images or percent, sums.
"""

import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from vpjax.core.errors import UserError
from vpjax.data.source import Record

File = tuple[str, int]  # path relative to the data set's folder, label
Key = str | int  # a class as a listing calls it
Listed = list[tuple[str, Key]]
PART = re.compile(r"\s*(\w+)\s*(?:\[\s*(-?\d+%?)?\s*:\s*(-?\d+%?)?\s*\])?\s*")


class Listing(NamedTuple):
    """What a format's reader finds."""

    folder: Path  # what files are relative to, or a folder above that
    splits: Mapping[str, Callable[[], Listed]]
    classes: Mapping[Key, str] | None = None  # names by key, in the order of labels; None: train's


class Files:
    """Encoded images in files, read when they are asked for.

    Attributes:
        labels: of every file, known without reading any.
        names: paths relative to `folder`, with "/".
    """

    def __init__(self, folder: Path, files: Sequence[File]):
        self.folder = folder
        self.names = [name for name, _ in files]
        self.labels: Int64[np.ndarray, " n"] = np.array([label for _, label in files], np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        """Raises: UserError for a file that has gone or may not be read."""
        return [self._record(int(i)) for i in indices]

    def _record(self, index):
        name = self.names[index]
        try:
            return Record((self.folder / name).read_bytes(), int(self.labels[index]), name)
        except OSError as error:
            raise UserError(
                f"{self.folder / name} cannot be read: {error.strerror}. It was there when the "
                "data set was opened, or is listed in it; put it back."
            ) from error


def splits(split: str, load: Callable[[str], Sequence[File]]) -> list[File]:
    """Returns the files of a split string; `load` returns those of a whole split.

    Raises: UserError as `pieces` does.
    """
    load = functools.cache(load)
    out = []
    for name, start, stop in pieces(split, lambda name: len(load(name))):
        out += load(name)[start:stop]
    return out


def pieces(split: str, count: Callable[[str], int]) -> list[tuple[str, int, int]]:
    """Returns (whole split, first image, end) of each part of a split string.

    `count` returns the number of images of a whole split.

    Raises: UserError for what is no split string, or a slice outside of a split.
    """
    out = []
    for part in split.split("+"):
        match = PART.fullmatch(part)
        if not match:
            raise UserError(
                f"split {split!r} cannot be read at {part.strip()!r}; expected a name with an "
                "optional slice, such as 'train', 'train[:90%]' or 'train[:800]+val[100:200]'."
            )
        n = count(match[1])
        start, stop = (_place(t, d, n, part) for t, d in ((match[2], 0), (match[3], n)))
        out.append((match[1], start, max(start, stop)))
    return out


def _place(text, default, n, part):
    """Returns where a slice begins or ends; percent are rounded as in TFDS."""
    if text is None:
        return default
    place = round(int(text[:-1]) * n / 100) if text.endswith("%") else int(text)
    if not -n <= place <= n:
        raise UserError(f"split {part.strip()!r}: {text} is outside of its {n} images.")
    return place + n if place < 0 else place


class Finder:
    """Tells which files exist, asking the disk once a folder: stat is slow for millions."""

    def __init__(self, folder: Path):
        self._folder = str(folder)
        self._names: dict[str, frozenset[str]] = {}

    def __contains__(self, name: str) -> bool:
        folder, _, file = name.rpartition("/")
        if folder not in self._names:
            try:
                found = frozenset(os.listdir(os.path.join(self._folder, folder)))
            except OSError:
                found = frozenset()
            self._names[folder] = found
        return file in self._names[folder]
