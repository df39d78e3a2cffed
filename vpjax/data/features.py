"""Rows of features instead of images: a folder of them, and their batches.

    features.npy   n D float32, memory-mapped
    labels.npy     n int32, or n C of zeros and ones
    meta.json      data, backbone and preprocessing, how many rows are done, and their digests

Filling a folder may be interrupted and continued: rows count as done once they are on the disk.
Their digests are compared whenever the folder is opened; from damaged ones on they are computed
again.
"""

import contextlib
import hashlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Shaped
from numpy.lib.format import open_memmap

from vpjax.core import leftovers
from vpjax.core.errors import InUse, UserError
from vpjax.core.files import locked, read_json, write_json
from vpjax.data.loader import MEMORY, Order
from vpjax.data.source import Source

log = logging.getLogger(__name__)

SAMPLE = 1000  # examples that `content` reads


class Rows(NamedTuple):
    """The features and labels of a split, in the order of its source."""

    features: Float32[np.ndarray, "n D"]
    labels: Shaped[np.ndarray, " n *C"]


class FeatureLoader(Order):
    """Batches as a `Loader` makes them, with "features" (b D float32) in place of "image"."""

    def __init__(self, source: Source, rows: Rows, batch_size: int, **order: Any):
        super().__init__(source, batch_size, **order)
        small = rows.features.nbytes <= MEMORY
        self.rows = Rows(*map(np.array, rows)) if small else rows

    def batches(self, start: int = 0) -> Iterator[dict[str, Any]]:
        """Yield this process's part of each batch from step `start` on; in training, endlessly."""
        step = start
        while self.train or step < self.steps_per_epoch:
            yield self.batch(step)
            step += 1

    def batch(self, step: int) -> dict[str, Any]:
        """Return this process's part of the batch of one step."""
        indices = self.indices(step)[self._rows.start : self._rows.stop]
        real = indices >= 0
        features, labels = (array[np.maximum(indices, 0)] for array in self.rows)
        features[~real], labels[~real] = 0, 0
        return {"features": features, "label": labels.astype(np.int32), "mask": real}


class Store:
    """A folder of rows that is being filled, see `filling`.

    Attributes:
        rows: the arrays on the disk.
        count: number of rows.
        done: how many of them are on the disk for certain.
        sums: [rows up to here, digest of those since the one before] for each `save`.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], shapes: list[tuple[int, ...]]):
        self.path, self.facts = folder / "meta.json", facts
        self.count, self.done = shapes[0][0], 0
        self.sums: list[tuple[int, str]] = []
        kinds = (np.float32, np.int32 if len(shapes[1]) == 1 else np.uint8)
        files = [folder / "features.npy", folder / "labels.npy"]
        made = list(zip(files, kinds, shapes, strict=True))
        if not self.path.exists() or not self._open(made):
            for file in files:  # others may have the old ones open, which must not become shorter
                file.unlink(missing_ok=True)
            self.rows = Rows(*(open_memmap(f, "w+", kind, shape) for f, kind, shape in made))
            self.save(0)

    def _open(self, made: list[tuple[Path, Any, tuple[int, ...]]]) -> bool:
        """Open what was kept, as far as it is intact; return whether anything is."""
        why = "its files are not those of its split"
        try:
            kept = read_json(self.path)
            sums = [(int(stop), str(sha256)) for stop, sha256 in kept["sums"]]
            rows = Rows(*(open_memmap(f, "r+") for f, _, _ in made))
            same = all(
                (r.shape, r.dtype) == (s, k) for r, (_, k, s) in zip(rows, made, strict=True)
            )
            if not same or {k: kept.get(k) for k in self.facts} != self.facts:
                raise ValueError(why)
        except Exception as e:  # a damaged header raises nearly anything
            log.warning("features  %s are damaged (%s): computed again", self.path.parent, e or why)
            return False
        self.rows = rows
        for stop, sha256 in sums:
            if not self.done <= stop <= self.count or self._sum(self.done, stop) != sha256:
                text = "features  %s are damaged from row %d on: computed again from there"
                log.warning(text, self.path.parent, self.done)
                break
            self.sums.append((stop, sha256))
            self.done = stop
        return True

    def _sum(self, start: int, stop: int) -> str:
        digest = hashlib.sha256()
        for array in self.rows:
            digest.update(np.ascontiguousarray(array[start:stop]).data)
        return digest.hexdigest()

    @property
    def complete(self) -> bool:
        return self.done == self.count

    def write(self, start: int, features: np.ndarray, labels: np.ndarray) -> None:
        """Write the rows from `start` on; they count after the next `save`."""
        rows = slice(start, start + len(features))
        self.rows.features[rows], self.rows.labels[rows] = features, labels

    def save(self, done: int) -> None:
        """Flush the arrays, then note that the rows before `done` are done."""
        for array in self.rows:
            array.flush()
        if done > self.done:
            self.sums.append((done, self._sum(self.done, done)))
        write_json(self.path, self.facts | {"done": max(self.done, done), "sums": self.sums})
        self.done = max(self.done, done)


@contextlib.contextmanager
def filling(folder: Path, facts: dict[str, Any], shapes: list[tuple[int, ...]]) -> Iterator[Store]:
    """Open a folder of rows to fill; wait while another process fills it.

    Args:
        folder: made if need be.
        facts: kept in meta.json.
        shapes: of features (n, D) and labels (n,) or (n, C).

    Raises:
        UserError: if the disk is too full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(folder / ".lock", wait=False))
        except InUse:
            log.info("features  another process is computing them; waiting for it")
            held.enter_context(locked(folder / ".lock"))
        leftovers.clean([folder], age=0)
        need, free = 4 * int(np.prod(shapes[0])), shutil.disk_usage(folder).free
        if not (folder / "meta.json").exists() and need > free:
            raise UserError(
                f"features need {need / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are "
                "free. Free some, set VPJAX_CACHE to another folder, or --config.features=off."
            )
        yield Store(folder, facts, shapes)


def read_rows(folder: Path) -> Rows:
    """Return the rows of a finished folder, memory-mapped."""
    return Rows(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in Rows._fields))


def content(source: Source) -> str:
    """Return a hash of a split: name, classes, length, and up to 1000 examples as stored.

    The examples are spread evenly over the split; changes in others go unnoticed.
    """
    n = len(source)
    digest = hashlib.sha256(f"{source.name}\n{n}\n{source.classes}\n{source.decoding}\n".encode())
    places = np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).astype(int)).tolist()
    for start in range(0, len(places), 100):
        for record in source.records.__getitems__(places[start : start + 100]):
            digest.update(f"{record.label}\n".encode())
            digest.update(hashlib.sha256(record.image).digest())
    return digest.hexdigest()
