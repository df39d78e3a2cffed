"""A test split that cannot be opened before what is tested has been chosen.

    with lock_split("cifar10", "test", until=folder / "choice.json"):
        ...    # here `open_source` raises for every split that shares an image with the test
        ...    # split, whatever its name, until the file exists

Splits are compared by where their images are stored, not by their names: "train[:800]+test[:1]"
raises, and a validation split that some data sets cut from the front of their test split does not,
as long as the test split begins after it. Where storage is not known, names are compared.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vpjax.core.errors import UserError
from vpjax.data.holdout import Holdout
from vpjax.data.open import GUARDS, open_source
from vpjax.data.records import Piece
from vpjax.data.source import Source


class Locked(UserError):
    """The test split was asked for while it is locked."""


@contextlib.contextmanager
def lock_split(
    name: str,
    split: str,
    until: Path,
    *,
    data_dir: str | os.PathLike | None = None,
    classes: str | Sequence[str | int] = "",
    holdout: Holdout | None = None,
) -> Iterator[None]:
    """Locks a split of a data set, in this process, until the file `until` exists.

    Args:
        name, split, data_dir, classes, holdout: the test split, as for `open_source`.
        until: file whose existence ends the lock.

    Raises:
        UserError: if `split` is empty, or the split cannot be opened.
    """
    if not split:
        raise UserError("config.data.test is empty; name the split that is read once, at the end")
    test = open_source(name, split, data_dir, classes, holdout=holdout)
    pieces = extent(test)

    def guard(opened: Source) -> None:
        if until.exists():
            return
        count = shared(pieces, extent(opened)) if pieces else opened.name == test.name
        if count:
            number = f"{count:,} images with " if pieces else ""
            raise Locked(
                f"{opened.name} shares {number}the test split, {test.name}, which stays locked "
                f"until the choice is made ({until} does not exist yet). Choose other splits for "
                "config.data.train and config.data.val."
            )

    GUARDS.append(guard)
    try:
        yield
    finally:
        GUARDS.remove(guard)


def extent(source: Source) -> list[Piece]:
    """Return where the images of a source are stored; [] if that is not known."""
    return list(getattr(source.records, "pieces", ()))


def shared(one: Iterable[Piece], other: Iterable[Piece]) -> int:
    """Return how many images two extents have in common."""
    files: dict[str, list[Piece]] = {}
    for piece in one:
        files.setdefault(piece.file, []).append(piece)
    both = ((a, b) for b in other for a in files.get(b.file, ()))
    return sum(max(0, min(a.stop, b.stop) - max(a.start, b.start)) for a, b in both)
