"""Some images of a source, as a source of its own."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from vpjax.data.records import Piece, Record, Records
from vpjax.data.source import Source


def pick(source: Source, indices: Int64[np.ndarray, " m"], name: str) -> Source:
    """Return some images of a source, in the order of `indices`; classes and labels stay.

    Args:
        source: all of them. Its labels are read if they are not known.
        indices: which.
        name: of the new source.
    """
    found = Source(
        name,
        source.classes,
        Picked(source.records, indices, source.labels()[indices]),
        source.image_shape,
        source.multilabel,
        source.metadata,
    )
    found.decoding = source.decoding
    return found


class Picked:
    """Some of other records, with the labels that are given: n, or n C of zeros and ones."""

    def __init__(
        self,
        records: Records,
        indices: Int64[np.ndarray, " m"],
        labels: Int64[np.ndarray, " m *C"],
    ):
        self.indices, self.labels = indices, labels
        self._records = records

    @functools.cached_property
    def pieces(self) -> Sequence[Piece]:
        """Where these images are stored, one by one; () if that is not known."""
        pieces = getattr(self._records, "pieces", ())
        ends = np.cumsum([p.stop - p.start for p in pieces])
        if not len(ends) or ends[-1] != len(self._records):
            return ()
        at = np.searchsorted(ends, self.indices, side="right")
        from_end = ends[at] - self.indices
        places = [(pieces[k].file, pieces[k].stop - n) for k, n in zip(at, from_end, strict=True)]
        return [Piece(file, int(i), int(i) + 1) for file, i in places]

    @property
    def names(self) -> Sequence[str] | None:
        """Paths of the images, where the others have some."""
        names = getattr(self._records, "names", None)
        return names and [names[i] for i in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        found = self._records.__getitems__([int(self.indices[i]) for i in indices])
        if self.labels.ndim > 1:
            return found
        pairs = zip(found, indices, strict=True)
        return [record._replace(label=int(self.labels[i])) for record, i in pairs]
