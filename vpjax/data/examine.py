"""Decodes every image of a split once and keeps a few facts about each: for `vpjax.data.check`.

    examined = examine(source, threads=8)
    examined.unreadable[17]   "OSError: image file is truncated (4 bytes not processed)"

The facts are a hash of the pixels (so that a JPEG and its PNG copy are the same picture), label,
size and kind. An unreadable image is a fact too, and stops nothing.
"""

import collections
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64

from vpjax.core.errors import UserError
from vpjax.data import images
from vpjax.data.records import Record
from vpjax.data.source import Source

BLOCK = 32  # images that a thread takes at once
AHEAD = 8  # blocks per thread that are in work or waiting

Label = int | tuple[int, ...] | None  # None: the record could not even be read


class Facts(NamedTuple):
    """Facts about one image; an unreadable one has only a fault and perhaps a label."""

    label: Label
    fault: str = ""
    pixels: int = 0  # hash
    height: int = 0
    width: int = 0
    kind: str = ""  # see `vpjax.data.images.decode_with_kind`
    blank: bool = False  # one colour all over


class Examined(NamedTuple):
    """Facts about the images of a split, in its order."""

    labels: list[Label]
    pixels: UInt64[np.ndarray, " n"]  # hashes
    sizes: Int64[np.ndarray, "n 2"]  # height and width, as read
    kinds: dict[str, list[int]]  # indices of the images of each kind
    unreadable: dict[int, str]  # fault by index
    blank: frozenset[int] = frozenset()  # indices of images of one colour

    @property
    def readable(self) -> Int64[np.ndarray, " m"]:
        """Indices of the images that could be read."""
        return np.setdiff1d(np.arange(len(self.labels)), list(self.unreadable))

    def digest(self) -> str:
        """Return the sha256 of all pixels and labels, in order: equal for equal data."""
        out = hashlib.sha256(self.pixels.astype("<u8").tobytes())
        out.update(repr(self.labels).encode())
        return out.hexdigest()


def examine(source: Source, threads: int, done: Callable[[int], None] = lambda n: None) -> Examined:
    """Read and decode all images.

    Args:
        source: the data.
        threads: number of threads that decode.
        done: called, now and then, with the number of images that are done.
    """
    facts: list[Facts] = []
    with ThreadPoolExecutor(threads) as pool:
        waiting: collections.deque[Future[list[Facts]]] = collections.deque()
        for start in range(0, len(source), BLOCK):
            block = range(start, min(start + BLOCK, len(source)))
            waiting.append(pool.submit(_examine_block, source, block))
            # Bounded, so that a long list of blocks is not held in memory.
            while len(waiting) > AHEAD * threads:
                facts += waiting.popleft().result()
                done(len(facts))
        while waiting:
            facts += waiting.popleft().result()
            done(len(facts))
    kinds: dict[str, list[int]] = collections.defaultdict(list)
    for i, image in enumerate(facts):
        if not image.fault:
            kinds[image.kind].append(i)
    return Examined(
        labels=[image.label for image in facts],
        pixels=np.array([image.pixels for image in facts], np.uint64),
        sizes=np.array([(image.height, image.width) for image in facts], np.int64).reshape(-1, 2),
        kinds=dict(kinds),
        unreadable={i: image.fault for i, image in enumerate(facts) if image.fault},
        blank=frozenset(i for i, image in enumerate(facts) if image.blank),
    )


def _examine_block(source: Source, block: Sequence[int]) -> list[Facts]:
    try:
        records = source.records.__getitems__(list(block))
    except UserError:  # one of them is damaged: reading them one by one shows which
        return [_examine_one(source, i) for i in block]
    return [_facts(record, source) for record in records]


def _examine_one(source: Source, index: int) -> Facts:
    try:
        (record,) = source.records.__getitems__([index])
    except UserError as error:
        labels = getattr(source.records, "labels", None)
        return Facts(None if labels is None else int(labels[index]), str(error))
    return _facts(record, source)


def _facts(record: Record, source: Source) -> Facts:
    label: Label = record.label
    shape = source.image_shape
    try:
        array, kind = record.image, "array"
        if not isinstance(array, np.ndarray):
            array, kind = images.decode_with_kind(array, shape[2], source.decoding)
    except Exception as error:  # Pillow raises a dozen kinds on broken files
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return Facts(label, text)
    if any(want not in (None, have) for want, have in zip(shape, array.shape, strict=True)):
        return Facts(label, f"shape {array.shape}, but that of the data set is {shape}")
    digest = hashlib.blake2b(repr(array.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(array))
    pixels = int.from_bytes(digest.digest(), "little")
    blank = bool((array == array[:1, :1]).all())
    return Facts(label, "", pixels, array.shape[0], array.shape[1], kind, blank)
