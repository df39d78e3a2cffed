"""A report as Markdown."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

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
        return "#" * block.level + " " + _escaped(block.text)
    if isinstance(block, Text):
        return _escaped(block.text)
    if isinstance(block, Warnings):
        return "\n".join(f"- **{_escaped(line)}**" for line in block.lines)
    if isinstance(block, Facts):
        return "\n".join(
            f"- {_escaped(name)}: **{_escaped(value)}**" + f", {_escaped(note)}" * bool(note)
            for name, value, note in block.items
        )
    if isinstance(block, Grid):
        rows = [[_escaped(cell) for cell in row] for row in block.rows if any(row)]
        text = table([_escaped(cell) for cell in block.header], rows, block.align)
        return text + (f"\n\n{_escaped(block.caption)}" if block.caption else "")
    if isinstance(block, Picture):
        return f"![{_escaped(block.caption)}](<{block.file.relative_to(folder)}>)"
    if isinstance(block, Sheet):
        rows = "; ".join(map(_escaped, block.rows))
        return f"![rows: {rows}](<{block.file.relative_to(folder)}>)\n\nRows: {rows}."
    if isinstance(block, Listing):
        return f"```\n{block.text.rstrip()}\n```"
    assert isinstance(block, Folded), block
    return f"**{_escaped(block.summary)}**\n\n" + markdown(block.blocks, folder).rstrip()


def _escaped(text: str) -> str:
    for letter in "\\`*_<>[]":
        text = text.replace(letter, "\\" + letter)
    return " ".join(text.split())
