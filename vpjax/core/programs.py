"""Compiled programs that JAX keeps on disk, with digests, which JAX does not keep.

    <folder>/<key>-cache      written by JAX: compressed machine code, by zstandard without checksum
    <folder>/<key>-sha256     written here when the process that compiled it ends

JAX would load and run damaged machine code, and never rewrites a file that is cut short. So all are
compared with their digests before JAX looks at them, and the damaged ones deleted: they are
compiled again. One without a digest is of a process that was killed. It is taken if it is whole and
not old.
"""

import atexit
import contextlib
import hashlib
import logging
import time
import zlib
from pathlib import Path

from vpjax.core.files import write_text

log = logging.getLogger(__name__)

ENDING, SUM = "-cache", "-sha256"
DAY = 86400.0  # seconds
# Bytes of programs that are kept, the newest: all are compared as a process starts, two seconds a
# GiB, and JAX itself would keep them for ever.
MOST = 512 * 2**20

_FOLDERS: set[Path] = set()  # that were checked


def check(folder: Path) -> int:
    """Delete damaged programs in a folder, and note the digests of new ones as the process ends.

    Returns:
        How many were deleted.
    """
    deleted = 0
    with contextlib.suppress(OSError):  # of a folder that cannot be used JAX warns
        _make_room(folder)
        deleted = sum(not _intact(file) for file in sorted(folder.glob(f"*{ENDING}")))
        for note in folder.glob(f"*{SUM}"):
            if not _beside(note, ENDING).exists():
                note.unlink(missing_ok=True)
    if deleted:
        log.info("%d damaged or half-written programs in %s: compiled again", deleted, folder)
    _FOLDERS.add(folder)
    return deleted


def _make_room(folder: Path) -> None:
    """Delete the programs that were not used for longest, where there are more than `MOST`."""
    known = [(file.stat(), file) for file in folder.glob(f"*{ENDING}")]
    left = MOST
    for status, file in sorted(known, key=lambda k: -max(k[0].st_atime, k[0].st_mtime)):
        left -= status.st_size
        if left < 0:
            file.unlink(missing_ok=True)


@atexit.register
def finish() -> None:
    """Note the digests of what this process has compiled."""
    for folder in _FOLDERS:
        record(folder)


def record(folder: Path) -> None:
    """Note the digests of programs that have none."""
    with contextlib.suppress(OSError):  # without a digest it is looked at more closely next time
        for file in folder.glob(f"*{ENDING}"):
            if not _beside(file, SUM).exists() and _is_whole(content := file.read_bytes()):
                write_text(_beside(file, SUM), hashlib.sha256(content).hexdigest() + "\n")


def _intact(file: Path) -> bool:
    """Return whether a program is what was compiled; delete it if not."""
    note = _beside(file, SUM)
    try:
        content, age = file.read_bytes(), time.time() - file.stat().st_mtime
    except FileNotFoundError:  # another process has just deleted it
        return True
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if note.read_text().strip() == hashlib.sha256(content).hexdigest():
            return True
    if not note.exists() and age < DAY and _is_whole(content):
        write_text(note, hashlib.sha256(content).hexdigest() + "\n")
        return True
    file.unlink(missing_ok=True)
    note.unlink(missing_ok=True)
    return False


def _is_whole(content: bytes) -> bool:
    """Return whether content can be unpacked; of another format than is known, whether it is."""
    try:
        if content.startswith(b"\x78"):
            zlib.decompress(content)
        elif content.startswith(b"\x28\xb5\x2f\xfd"):
            with contextlib.suppress(ImportError):
                import zstandard  # where it is not installed, JAX has not written this

                zstandard.ZstdDecompressor().decompress(content)
    except Exception:  # zlib.error, ZstdError, MemoryError
        return False
    return bool(content)


def _beside(file: Path, ending: str) -> Path:
    return file.with_name(f"{file.name.removesuffix(ENDING).removesuffix(SUM)}{ending}")
