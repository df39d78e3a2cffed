"""A report as Markdown."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from vpjax.core import escape
from vpjax.core.table import table
from vpjax.report.blocks import (
    Facts,
    Folded,
    Grid,
    Heading,
    Listing,
    Picture,
    Sheet,
    Text,
    Warnings,
)


def markdown(blocks: Iterable[NamedTuple], folder: Path) -> str:
    """Return blocks as Markdown for a file in `folder`, which pictures are relative to."""
    return "\n\n".join(_markdown(block, folder) for block in blocks) + "\n"


def _markdown(block: NamedTuple, folder: Path) -> str:
    if isinstance(block, Heading):
        return "#" * block.level + " " + escape.markdown(block.text)
    if isinstance(block, Text):
        return escape.markdown(block.text)
    if isinstance(block, Warnings):
        return "\n".join(f"- **{escape.markdown(line)}**" for line in block.lines)
    if isinstance(block, Facts):
        return "\n".join(
            f"- {escape.markdown(name)}: **{escape.markdown(value)}**"
            + f", {escape.markdown(note)}" * bool(note)
            for name, value, note in block.items
        )
    if isinstance(block, Grid):
        rows = [[escape.markdown(cell) for cell in row] for row in block.rows if any(row)]
        text = table([escape.markdown(cell) for cell in block.header], rows, block.align)
        return text + (f"\n\n{escape.markdown(block.caption)}" if block.caption else "")
    if isinstance(block, Picture):
        return f"![{escape.markdown(block.caption)}]({_address(block.file, folder)})"
    if isinstance(block, Sheet):
        rows = "; ".join(map(escape.markdown, block.rows))
        return f"![rows: {rows}]({_address(block.file, folder)})\n\nRows: {rows}."
    if isinstance(block, Listing):
        return escape.fence(block.text)
    assert isinstance(block, Folded), block
    return f"**{escape.markdown(block.summary)}**\n\n" + markdown(block.blocks, folder).rstrip()


def _address(file: Path, folder: Path) -> str:
    name = quote(file.relative_to(folder).as_posix().encode("utf-8", "surrogateescape"))
    return f"<{name}>"
