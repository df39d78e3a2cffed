"""Random access to TFRecord files without TensorFlow.

A file is a sequence of [u64 length][u32 checksum][payload][u32 checksum]. One pass over the
lengths gives the offsets; afterwards any record is one seek and one read.
"""

import contextlib
import hashlib
import logging
import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from vpjax.core import unpack
from vpjax.core.errors import UserError
from vpjax.core.files import atomic, cache_folder

log = logging.getLogger(__name__)

LENGTH = struct.Struct("<Q")
BEFORE, AFTER = 12, 4  # bytes around a payload


class TFRecords:
    """The records of several files, or of parts of them, as one list of bytes.

    Args:
        instructions: TFDS's file instructions: `filename`, `skip`, `take`, `examples_in_shard`.

    Raises:
        UserError: for a file that is cut short or holds another number of records than stated.
    """

    def __init__(self, instructions: Sequence[Any]):
        self._files = [os.fspath(piece.filename) for piece in instructions]
        places = []
        for number, piece in enumerate(instructions):
            spans = index(piece.filename)  # n 2
            if len(spans) != piece.examples_in_shard:
                raise UserError(
                    f"{piece.filename} holds {len(spans)} records; {piece.examples_in_shard} were "
                    "expected. Prepare the data set again."
                )
            spans = spans[piece.skip : piece.skip + piece.take]
            places.append(np.column_stack([np.full(len(spans), number), spans]))
        self._places = np.concatenate(places)  # n 3: file, offset, length

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, i: int) -> bytes:
        file, offset, length = self._places[i].tolist()
        # Opening anew costs 10 microseconds and needs no lock between threads.
        with open(self._files[file], "rb", buffering=0) as f:
            f.seek(offset)
            return f.read(length)

    def __getitems__(self, indices: Sequence[int]) -> list[bytes]:
        return [self[i] for i in indices]


def index(path: str | os.PathLike) -> Int64[np.ndarray, "n 2"]:
    """Return offset and length, in bytes, of every payload in a file.

    The result is kept in the cache folder under the file's name, size and time of change.

    Raises: UserError for a file that is cut short.
    """
    status = os.stat(path)
    key = f"{os.path.abspath(path)}\n{status.st_size}\n{status.st_mtime_ns}"
    cached = cache_folder() / "tfrecord" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    if (kept := _kept(cached, status.st_size)) is not None:
        return kept
    spans = _scan(path, status.st_size)
    with contextlib.suppress(OSError):  # without a cache, the next start is slower
        cached.parent.mkdir(parents=True, exist_ok=True)
        with atomic(cached) as new, open(new, "wb") as file:
            np.save(file, spans)
    return spans


def _kept(cached, size):
    """Return the kept index of a file of `size` bytes; None if there is none, or it is damaged.

    It proves itself: every record begins where the one before it ends, and the last ends the file.
    """
    try:
        with open(cached, "rb") as file:
            spans = unpack.read_npy(file, cached.stat().st_size)
    except FileNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001 - numpy raises nearly anything on a damaged header
        log.debug("index     %s is damaged (%s): made anew", cached, error)
        return None
    good = spans.dtype == np.int64 and spans.ndim == 2 and spans.shape[1] == 2
    if good:
        begins, lengths = spans[:, 0] - BEFORE, spans[:, 1]
        ends = spans[:, 0] + lengths + AFTER
        good = bool((lengths >= 0).all())
        good &= np.array_equal(np.append(begins, size), np.append(0, ends))
    if not good:
        log.debug("index     %s is damaged: made anew", cached)
    return spans if good else None


def _scan(path, size):
    spans, position = [], 0
    with open(path, "rb") as f:
        while position < size:
            f.seek(position)
            header = f.read(BEFORE)
            length = LENGTH.unpack_from(header)[0] if len(header) == BEFORE else size
            if position + BEFORE + length + AFTER > size:
                raise UserError(
                    f"{path} ends inside record {len(spans)}: it is cut short or no TFRecord file. "
                    "Prepare the data set again."
                )
            spans.append((position + BEFORE, length))
            position += BEFORE + length + AFTER
    return np.array(spans, np.int64).reshape(-1, 2)
