"""The parts a report is made of, and their Markdown; `page` has their HTML."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from vpjax.core.table import table


class Heading(NamedTuple):
    text: str
    level: int = 2


class Text(NamedTuple):
    text: str


class Warnings(NamedTuple):
    """What a reader must know before believing the numbers."""

    lines: tuple[str, ...]


class Grid(NamedTuple):
    """A table; `align` as in `vpjax.core.table.table`. A row whose first cell is "" is a rule."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str = "lr"
    caption: str = ""


class Picture(NamedTuple):
    file: Path
    caption: str


class Listing(NamedTuple):
    """Text as it is."""

    text: str


class Folded(NamedTuple):
    """What only some want to read: closed at first, where that is possible."""

    summary: str
    blocks: tuple


def markdown(blocks: Iterable[NamedTuple], folder: Path) -> str:
    """Returns blocks as Markdown for a file in `folder`."""
    return "\n\n".join(_markdown(block, folder) for block in blocks) + "\n"


def _markdown(block: NamedTuple, folder: Path) -> str:
    if isinstance(block, Heading):
        return "#" * block.level + " " + _plain(block.text)
    if isinstance(block, Text):
        return _plain(block.text)
    if isinstance(block, Warnings):
        return "\n".join(f"- **{_plain(line)}**" for line in block.lines)
    if isinstance(block, Grid):
        rows = [[_plain(cell) for cell in row] for row in block.rows if any(row)]
        text = table([_plain(cell) for cell in block.header], rows, block.align)
        return text + (f"\n\n{_plain(block.caption)}" if block.caption else "")
    if isinstance(block, Picture):
        return f"![{_plain(block.caption)}](<{block.file.relative_to(folder)}>)"
    if isinstance(block, Listing):
        return f"```\n{block.text.rstrip()}\n```"
    assert isinstance(block, Folded), block
    return f"**{_plain(block.summary)}**\n\n" + markdown(block.blocks, folder).rstrip()


def _plain(text: str) -> str:
    """Returns text whose letters mean nothing in Markdown."""
    for letter in "\\`*_<>[]":
        text = text.replace(letter, "\\" + letter)
    return " ".join(text.split())
