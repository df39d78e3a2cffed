"""Reading images of which some are broken: those are noted and left out of the batches."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vpjax.core.errors import UserError
from vpjax.data.loader import Loader
from vpjax.data.source import Source

BLANK = 32  # pixels of what takes the place of a broken image, which no result is made of


class Forgiving(Source):
    """A source whose broken images are blank, and noted.

    Attributes:
        unreadable: {index: why} of those that were found so far.
        lost: {path: why} of files that are not in the source, as they are not there.
    """

    def __init__(self, source: Source, lost: Mapping[str, str] | None = None):
        args = (source.name, source.classes, source.records, source.image_shape)
        super().__init__(*args, source.multilabel, source.metadata)
        self.decoding = source.decoding
        self.unreadable: dict[int, str] = {}
        self.lost = dict(lost or {})

    @property
    def skipped(self) -> dict[str, str]:
        """{path: why} of all files left out so far; of arrays, the number of the image."""
        names = getattr(self.records, "names", None)
        broken = sorted(self.unreadable.items())
        return self.lost | {names[i] if names else str(i): why for i, why in broken}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Read and decode several examples; see `Source`."""
        return [self._one(int(i)) for i in indices]

    def _one(self, index):
        try:
            return super().__getitems__([index])[0]
        except UserError as error:
            self.unreadable[index] = reason(error)
            height, width, channels = self.image_shape
            label = np.zeros(self.label_shape, np.uint8) if self.multilabel else 0
            blank = np.zeros((height or BLANK, width or BLANK, channels), np.uint8)
            return {"image": blank, "label": label}


def reason(error: UserError) -> str:
    """Return why an image cannot be read, without where it lies."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return " ".join(str(error if cause is None else cause).split())


def readable_batches(loader: Loader) -> Iterator[dict[str, Any]]:
    """Yield the batches of one pass, with "index" and with mask False also for broken images.

    Args:
        loader: for evaluation, of any source.
    """
    broken = getattr(loader.source, "unreadable", {})
    for step, batch in enumerate(loader.batches()):
        indices = loader.indices(step)
        lost = np.array([i in broken for i in indices.tolist()], bool)
        yield batch | {"index": indices, "mask": batch["mask"] & ~lost}
