"""The blocks of a report: headings, texts, tables, pictures.

`vpjax.report.markdown` and `vpjax.report.html` write them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Heading(NamedTuple):
    """A heading; level 1 is the title."""

    text: str
    level: int = 2


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Warnings(NamedTuple):
    """A list of what a reader must know before believing the numbers."""

    lines: tuple[str, ...]


class Grid(NamedTuple):
    """A table; `align` as in `vpjax.core.table.table`. A row of empty cells is a ruled line."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str = "lr"
    caption: str = ""


class Picture(NamedTuple):
    """A PNG file."""

    file: Path
    caption: str


class Listing(NamedTuple):
    """Preformatted text, such as a log."""

    text: str


class Folded(NamedTuple):
    """Blocks that only some readers want: closed at first in HTML."""

    summary: str
    blocks: tuple
