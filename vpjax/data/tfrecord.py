"""Random access to TFRecord files without TensorFlow.

A file is a sequence of [u64 length][u32 checksum][payload][u32 checksum]. One pass over the
lengths gives the offsets; afterwards any record is one seek and one read, and its checksum is
compared whenever it is read. Checksums of zero stand for none, as some programs write.
"""

import contextlib
import hashlib
import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from vpjax.core.errors import UserError
from vpjax.core.files import cache_folder, read_sealed, write_sealed
from vpjax.core.reading import reading
from vpjax.data import crc32c

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
        return self.__getitems__([i])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[bytes]:
        """Raise: ValueError for a record that is not what was written."""
        read = [self._read(i) for i in indices]
        payloads, sums = ([r[i] for r in read] for i in (slice(0, -AFTER), slice(-AFTER, None)))
        expected = np.frombuffer(b"".join(sums), "<u4")
        wrong = np.flatnonzero((crc32c.masked(payloads) != expected) & (expected != 0))
        if len(wrong):
            file, offset, _ = self._places[indices[int(wrong[0])]].tolist()
            where = f"{self._files[file]}, byte {offset}"
            raise ValueError(f"{where}: a record does not have the checksum it was written with")
        return payloads

    def _read(self, i: int) -> bytes:
        """Return a record and the checksum behind it."""
        file, offset, length = self._places[i].tolist()
        # Opening anew costs 10 microseconds and needs no lock between threads.
        with reading(self._files[file]), open(self._files[file], "rb", buffering=0) as f:
            f.seek(offset)
            read = f.read(length + AFTER)
        if len(read) != length + AFTER:
            raise ValueError(f"{self._files[file]} has become shorter since it was opened")
        return read


def index(path: str | os.PathLike) -> Int64[np.ndarray, "n 2"]:
    """Return offset and length, in bytes, of every payload in a file.

    The result is kept in the cache folder under the file's name, size and time of change.

    Raises: UserError for a file that is cut short.
    """
    status = os.stat(path)
    key = f"{os.path.abspath(path)}\n{status.st_size}\n{status.st_mtime_ns}"
    cached = cache_folder() / "tfrecord" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    if (kept := read_sealed(cached)) is not None:
        return np.frombuffer(kept, np.int64).reshape(-1, 2)
    spans = _scan(path, status.st_size)
    with contextlib.suppress(OSError):  # without a cache, the next start is slower
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(cached, spans.tobytes())
    return spans


def _scan(path, size):
    spans, position, lengths, sums = [], 0, [], []
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
            lengths.append(header[:8])
            sums.append(header[8:])
            spans.append((position + BEFORE, length))
            position += BEFORE + length + AFTER
    expected = np.frombuffer(b"".join(sums), "<u4")
    wrong = np.flatnonzero((crc32c.masked(lengths) != expected) & (expected != 0))
    if len(wrong):
        raise UserError(
            f"{path}: the length of record {int(wrong[0])} does not have the checksum it was "
            "written with: the file is damaged. Prepare the data set again."
        )
    return np.array(spans, np.int64).reshape(-1, 2)
