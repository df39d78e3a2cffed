"""Where the library's messages go: to the screen as plain lines, to a run's log.txt with times."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


def to_screen(stream: TextIO | None = None) -> None:
    """Send the library's messages to `stream`, by default standard output, as plain lines."""
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("vpjax")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


@contextlib.contextmanager
def to_file(path: Path) -> Iterator[None]:
    """Copy the library's messages to a file, with times."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.getLogger("vpjax").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("vpjax").removeHandler(handler)
        handler.close()
