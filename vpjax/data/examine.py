"""Every image of a split, decoded once and noted down: for `vpjax.data.check`.

    found = examine(source, threads=8)
    found.unreadable[17]   "OSError: image file is truncated (4 bytes not processed)"

Of an image remain a few bytes: a hash of its pixels (so that a JPEG and its PNG copy are the same
picture), label, size and kind. Nothing stops at a fault.
"""

import collections
import hashlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64
from PIL import ExifTags, Image

from vpjax.core.errors import UserError
from vpjax.data import images
from vpjax.data.source import Record, Source

BLOCK = 32  # images a thread takes at once
AHEAD = 8  # blocks in work or waiting, a thread

Label = int | tuple[int, ...] | None  # None: the record could not even be read


class Look(NamedTuple):
    """What is noted of one image; of an unreadable one only its fault and perhaps its label."""

    label: Label
    fault: str = ""
    pixels: int = 0  # hash
    height: int = 0
    width: int = 0
    kind: str = ""  # Pillow's mode, and whether EXIF turns it


class Examined(NamedTuple):
    """What is noted of a split, an entry an image."""

    labels: list[Label]
    pixels: UInt64[np.ndarray, " n"]  # hashes
    sizes: Int64[np.ndarray, "n 2"]  # height and width, as read
    kinds: dict[str, list[int]]  # images of each kind
    unreadable: dict[int, str]

    @property
    def readable(self) -> Int64[np.ndarray, " m"]:
        """Returns which images could be read."""
        return np.setdiff1d(np.arange(len(self.labels)), list(self.unreadable))

    def digest(self) -> str:
        """Returns the sha256 of all pixels and labels, in order: equal for equal data."""
        out = hashlib.sha256(self.pixels.astype("<u8").tobytes())
        out.update(repr(self.labels).encode())
        return out.hexdigest()


def examine(source: Source, threads: int, done: Callable[[int], None] = lambda n: None) -> Examined:
    """Reads and decodes all images; `done` is told how many are, now and then."""
    looks: list[Look] = []
    with ThreadPoolExecutor(threads) as pool:
        waiting: collections.deque[Future[list[Look]]] = collections.deque()
        for start in range(0, len(source), BLOCK):
            block = range(start, min(start + BLOCK, len(source)))
            waiting.append(pool.submit(_look_at_block, source, block))
            # Bounded, so that a long list of blocks is not held in memory.
            while len(waiting) > AHEAD * threads:
                looks += waiting.popleft().result()
                done(len(looks))
        while waiting:
            looks += waiting.popleft().result()
            done(len(looks))
    kinds: dict[str, list[int]] = collections.defaultdict(list)
    for i, look in enumerate(looks):
        if not look.fault:
            kinds[look.kind].append(i)
    return Examined(
        labels=[look.label for look in looks],
        pixels=np.array([look.pixels for look in looks], np.uint64),
        sizes=np.array([(look.height, look.width) for look in looks], np.int64).reshape(-1, 2),
        kinds=dict(kinds),
        unreadable={i: look.fault for i, look in enumerate(looks) if look.fault},
    )


def _look_at_block(source: Source, block: Sequence[int]) -> list[Look]:
    try:
        return [look_at(r, source.image_shape) for r in source.records.__getitems__(list(block))]
    except UserError:  # one of them; which, only reading them singly tells
        return [_look_at_one(source, i) for i in block]


def _look_at_one(source: Source, index: int) -> Look:
    try:
        (record,) = source.records.__getitems__([index])
    except UserError as error:
        labels = getattr(source.records, "labels", None)
        return Look(None if labels is None else int(labels[index]), str(error))
    return look_at(record, source.image_shape)


def look_at(record: Record, shape: tuple[int | None, int | None, int]) -> Look:
    """Decodes one image; `shape` is what the data set promises, None where sizes differ."""
    label: Label = record.label
    try:
        array, kind = record.image, "array"
        if not isinstance(array, np.ndarray):
            array, kind = images.decode(array, shape[2]), _kind(array)
    except Exception as error:  # Pillow raises a dozen kinds on broken files
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return Look(label, text)
    if any(want not in (None, have) for want, have in zip(shape, array.shape, strict=True)):
        return Look(label, f"shape {array.shape}, but the data set's is {shape}")
    digest = hashlib.blake2b(repr(array.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(array))
    pixels = int.from_bytes(digest.digest(), "little")
    return Look(label, "", pixels, array.shape[0], array.shape[1], kind)


def _kind(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
        return image.mode + (" turned" if turned else "")
