"""Where the library's messages go: to the screen as plain lines, to a run's log.txt with times.

log.info      the screen and log.txt: what a user follows
log.debug     log.txt alone: everything else, losses among it
log.warning   both; the screen shows each once
"""

import contextlib
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from vpjax.core import escape

COLUMNS = 80  # of a line on the screen

_QUIET = [0]  # how many `quiet` blocks are open


def to_screen(stream: TextIO | None = None) -> None:
    """Send the library's messages to `stream`, by default standard output, as plain lines."""
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(_Harmless("%(message)s"))
    handler.addFilter(_Shown())
    logger = logging.getLogger("vpjax")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG)
    logger.propagate = False


class _Harmless(logging.Formatter):
    """Writes messages without what would move the terminal: names in them come from files."""

    def format(self, record: logging.LogRecord) -> str:
        return escape.terminal(super().format(record))


class _Shown(logging.Filter):
    """Passes what the screen shows: no details, and each warning once."""

    def __init__(self) -> None:
        super().__init__()
        self._warned: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return record.levelno >= logging.INFO and not _QUIET[0]
        if record.levelno > logging.WARNING:
            return True
        text = record.getMessage()
        if _QUIET[0]:  # runs of a study differ in numbers; each has its own in its log.txt
            text = re.sub(r"\d[\d.e+-]*", "#", text)
        first = text not in self._warned
        self._warned.add(text)
        return first


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep all but warnings off the screen, for a run that is one of many."""
    _QUIET[0] += 1
    try:
        yield
    finally:
        _QUIET[0] -= 1


def is_quiet() -> bool:
    """Return whether a `quiet` block is open."""
    return bool(_QUIET[0])


def fitted(text: str, columns: int = COLUMNS) -> str:
    """Return a line for the screen, cut where it is too long."""
    return text if len(text) <= columns else f"{text[: columns - 1]}…"


@contextlib.contextmanager
def to_file(path: Path) -> Iterator[None]:
    """Copy the library's messages to a file, with times and details.

    What the program's own handlers show stays the same: without `to_screen`, in a notebook, they
    get no more than before.
    """
    handler = _File(path, encoding="utf-8")
    handler.setFormatter(_Harmless("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger("vpjax")
    level, propagate = logger.level, logger.propagate
    upwards = _Upwards(logger.getEffectiveLevel(), logger.parent)
    logger.addHandler(handler)
    if propagate:
        logger.addHandler(upwards)
        logger.propagate = False
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.removeHandler(upwards)
        logger.removeHandler(handler)
        handler.close()


class _File(logging.FileHandler):
    """A file whose messages are lost where the disk is full, rather than shown as tracebacks."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - of logging
        """Drop the message."""


class _Upwards(logging.Handler):
    """Passes records of a level on to the handlers of a logger above."""

    def __init__(self, level: int, logger: logging.Logger | None):
        super().__init__(level)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        if self._logger is not None:
            self._logger.callHandlers(record)
