"""A test split that cannot be opened before what is tested has been chosen.

    with locked(config.data, until=folder / "choice.json"):
        ...    # here `open_source` raises for every split that shares an image with data.test,
        ...    # whatever it is called, until the file is there

What counts is where images are stored, not the words for it: "train[:800]+test[:1]" raises, and a
validation split that some data set cuts from the front of its test split does not, as long as the
test split begins behind it. Sources whose place is not known are told by their names.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vpjax.core.errors import UserError
from vpjax.data import source as sources
from vpjax.data.source import Source


class Piece(NamedTuple):
    """A run of stored images: from `start` to before `stop` in a file."""

    file: str
    start: int
    stop: int


class Locked(UserError):
    """The test split was asked for while it is locked."""


@contextlib.contextmanager
def locked(data: ConfigDict, until: Path) -> Iterator[None]:
    """Locks the split `data.test` of this process until the file `until` exists.

    Raises: UserError if `data` has no test split, or it cannot be opened.
    """
    if not data.test:
        raise UserError("config.data.test is empty; name the split that is read once, at the end")
    test = sources.open_source(data.name, data.test, data.dir or None, data.classes)
    pieces, name = extent(test), test.name

    def guard(opened: Source) -> None:
        if until.exists():
            return
        count = shared(pieces, extent(opened)) if pieces else opened.name == name
        if count:
            number = f"{count:,} images with " if pieces else ""
            raise Locked(
                f"{opened.name} shares {number}the test split, {name}, which stays locked until "
                f"the choice is made ({until} is not there yet). Choose other splits for "
                "config.data.train and config.data.val."
            )

    sources.GUARDS.append(guard)
    try:
        yield
    finally:
        sources.GUARDS.remove(guard)


def extent(source: Source) -> list[Piece]:
    """Returns where the images of a source are stored; [] if that is not known."""
    records: Any = source.records
    while (inner := getattr(records, "_records", None)) is not None:
        records = inner  # of a part, or with other pixels: no more images than these
    if names := getattr(records, "names", None):
        return [Piece(os.path.join(records.folder, name), 0, 1) for name in names]
    return [
        Piece(os.fspath(p.filename), p.skip, p.skip + p.take)
        for p in getattr(records, "pieces", ())
        if p.take
    ]


def shared(one: Iterable[Piece], other: Iterable[Piece]) -> int:
    """Returns how many images two extents have in common."""
    files: dict[str, list[Piece]] = {}
    for piece in one:
        files.setdefault(piece.file, []).append(piece)
    both = ((a, b) for b in other for a in files.get(b.file, ()))
    return sum(max(0, min(a.stop, b.stop) - max(a.start, b.start)) for a, b in both)
