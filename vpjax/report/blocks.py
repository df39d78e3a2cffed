"""The blocks of a report: headings, texts, tables, pictures.

`vpjax.report.markdown` and `vpjax.report.html` write them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Rich(str):
    """A text that says more where a reader points at it, or that leads to another file.

    It is a string wherever nothing can be pointed at.

    Args:
        text: what is read.
        href: address of another file, relative to the page; "": none.
        tip: what is shown on hovering; "": nothing.
    """

    __slots__ = ("href", "tip")

    def __new__(cls, text: str, href: str = "", tip: str = "") -> "Rich":
        """Return the text with its address and its tip."""
        made = super().__new__(cls, text)
        made.href, made.tip = href, tip
        return made


class Heading(NamedTuple):
    """A heading; level 1 is the title, those of level 2 are the page's contents."""

    text: str
    level: int = 2


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Warnings(NamedTuple):
    """A list of what a reader must know before believing the numbers."""

    lines: tuple[str, ...]


class Facts(NamedTuple):
    """What a reader looks for first: (name, value, what it depends on) each."""

    items: tuple[tuple[str, str, str], ...]


class Grid(NamedTuple):
    """A table; `align` as in `vpjax.core.table.table`. A row of empty cells is a ruled line.

    Attributes:
        follows: first cell of rows that belong to the row above them, and stay with it when the
            table is sorted.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str = "lr"
    caption: str = ""
    follows: str = ""


class Picture(NamedTuple):
    """A PNG file."""

    file: Path
    caption: str


class Sheet(NamedTuple):
    """A PNG file of rows of small pictures, each row with a caption.

    Attributes:
        rows: the caption of each row; all rows are equally high.
    """

    file: Path
    rows: Sequence[str]


class Listing(NamedTuple):
    """Preformatted text, such as a log or a command."""

    text: str


class Folded(NamedTuple):
    """Blocks that only some readers want: closed at first in HTML."""

    summary: str
    blocks: tuple
