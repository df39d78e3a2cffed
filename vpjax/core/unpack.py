"""How much a compressed file may become: checked by what it promises, before memory is taken.

    check_zip(archive, path.stat().st_size)    what its members unpack to
    check_arrays(archive)                      what the arrays in an npz file say of their size
    gunzip(data)                               a stream of gzip, up to the limit

A file may unpack to `TIMES` its size, or to `FREE` bytes where that is more. Compressed weights and
pictures shrink to a half or a tenth; only files that are made for it grow a thousandfold.
"""

import zipfile
import zlib
from typing import Any, BinaryIO

import numpy as np

TIMES = 20
FREE = 64 * 2**20  # bytes that any file may unpack to
METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
PIECE = 2**20


class TooMuch(ValueError):
    """A file would become far more than it is."""


def most(size: int) -> int:
    """Return how many bytes a file of `size` bytes may unpack to."""
    return max(FREE, TIMES * size)


def check_zip(archive: zipfile.ZipFile, size: int) -> None:
    """Check what an archive unpacks to.

    Args:
        archive: the archive.
        size: bytes of its file.

    Raises:
        TooMuch: if that is over the limit, or it is compressed in another way than by deflate.
    """
    total = 0
    for member in archive.infolist():
        if member.compress_type not in METHODS:
            raise TooMuch(f"{member.filename!r:.80} is compressed in a way that is not read")
        total += member.file_size
    if total > most(size):
        raise TooMuch(
            f"it unpacks to {total:,} bytes from {size:,}; the limit is {TIMES} times its size, or "
            f"{FREE >> 20} MiB"
        )


def header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, order (whether Fortran's) and type of an array of numpy, from its first bytes.

    Args:
        stream: at its beginning; afterwards at its numbers.

    Raises:
        ValueError: for what is no such array.
    """
    version = np.lib.format.read_magic(stream)
    read = "read_array_header_1_0" if version == (1, 0) else "read_array_header_2_0"
    return getattr(np.lib.format, read)(stream)


def headers(archive: zipfile.ZipFile) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return shape and type of every array of an npz file, which it must be long enough for.

    Raises:
        TooMuch: if an array promises other numbers than the file holds.
        ValueError: for what is no array.
    """
    out = {}
    for member in archive.infolist():
        with archive.open(member) as stream:
            shape, _, kind = header(stream)
            have = member.file_size - stream.tell()
        if not kind.hasobject:
            check_size(shape, kind.itemsize, have, member.filename)
        out[member.filename.removesuffix(".npy")] = shape, kind
    return out


def check_size(shape: tuple[int, ...], itemsize: int, have: int, name: str) -> None:
    """Check that an array's numbers are all there.

    Args:
        shape: of the array.
        itemsize: bytes of a number.
        have: bytes that the file holds for it.
        name: of the array, for the message.

    Raises:
        TooMuch: if they are not as many as the shape says.
    """
    need = itemsize
    for n in shape:  # Python's numbers, which do not overflow
        need *= n
    if need != have or any(n < 0 for n in shape):
        raise TooMuch(f"{name!r:.80} says it has {need:,} bytes of numbers, and has {have:,}")


def read_npy(stream: BinaryIO, size: int) -> np.ndarray:
    """Return the array of an npy file.

    Args:
        stream: at its beginning.
        size: bytes of the file.

    Raises:
        ValueError: for what is no array of plain numbers, or has other numbers than it says.
    """
    shape, fortran, kind = header(stream)
    if kind.hasobject:
        raise ValueError("it holds Python objects (a pickle), not numbers")
    check_size(shape, kind.itemsize, size - stream.tell(), "the array")
    values = np.frombuffer(stream.read(), kind)
    return values.reshape(shape, order="F" if fortran else "C")


def gunzip(data: bytes) -> bytes:
    """Return what a stream of gzip unpacks to.

    Raises:
        TooMuch: if that is over the limit.
        zlib.error or EOFError: if it is damaged or cut short.
    """
    limit, out = most(len(data)), bytearray()
    while data:
        stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
        rest = data
        while rest and not stream.eof:
            out += stream.decompress(rest, PIECE)
            rest = stream.unconsumed_tail
            if len(out) > limit:
                raise TooMuch(f"it unpacks to over {limit:,} bytes, {TIMES} times its size")
        if not stream.eof:
            raise EOFError("it is cut short")
        data = stream.unused_data.lstrip(b"\0")
    return bytes(out)
