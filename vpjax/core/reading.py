"""Files that are being read, so that a disk or a network folder that does not answer is named.

After `SLOW` seconds a warning names what is waited for. A signal then ends the process although it
waits, see `vpjax.train.signals`. Pipes, sockets and devices, of which reading may never end, are
not opened at all.
"""

import contextlib
import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)

SLOW = 30.0  # seconds
KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}

_now: dict[int, tuple[object, float]] = {}  # by thread: what it reads, since when
_lock = threading.Lock()
_watching: list[threading.Thread] = []


def read_bytes(path: Path) -> bytes:
    """Return the content of a file.

    Raises: OSError if it cannot be read, or is no plain file.
    """
    with open_plain(path) as file:
        return file.read()


@contextlib.contextmanager
def open_plain(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a file to read bytes; what is no plain file is not waited for.

    Raises: OSError if it cannot be opened, or is no plain file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with reading(path), open(os.open(path, flags), "rb") as file:
        kind = stat.S_IFMT(os.fstat(file.fileno()).st_mode)
        if kind != stat.S_IFREG:
            what = f"it is {KINDS.get(kind, 'no file')}, and a plain file was expected"
            raise OSError(errno.EINVAL, what, os.fspath(path))
        yield file


@contextlib.contextmanager
def reading(what: object) -> Iterator[None]:
    """Note what this thread reads while the block runs."""
    thread = threading.get_ident()
    outer = _now.get(thread)
    _now[thread] = (what, time.monotonic())
    _watch()
    try:
        yield
    finally:
        if outer is None:
            del _now[thread]
        else:
            _now[thread] = outer


def waited_for(seconds: float) -> list[str]:
    """Return what some thread has been reading for longer than so many seconds."""
    now = time.monotonic()
    return sorted({str(what) for what, since in list(_now.values()) if now - since > seconds})


def _watch() -> None:
    """Start the thread that warns, once in a process."""
    if _watching and _watching[-1].is_alive():
        return
    with _lock:
        if not _watching or not _watching[-1].is_alive():
            _watching[:] = [threading.Thread(target=_warn, name="reading", daemon=True)]
            _watching[-1].start()


def _warn() -> None:
    said: set[str] = set()
    pause = threading.Event()
    while not pause.wait(SLOW / 10) and threading.current_thread() in _watching:
        for what in waited_for(SLOW):
            if what not in said:
                said.add(what)
                log.warning(
                    "warning   reading %s takes over %.0f s: its disk or network does not answer. "
                    "Ctrl-C stops waiting",
                    what,
                    SLOW,
                )
