"""A report as one HTML file: style and pictures are inside, nothing is fetched."""

import base64
from collections.abc import Iterable
from html import escape
from typing import NamedTuple

from vpjax.report.blocks import Folded, Grid, Heading, Listing, Picture, Text, Warnings

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto;
  max-width: 68rem; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; margin: 2rem 0 .6rem; }
h2 { border-bottom: 1px solid #ccc; padding-bottom: .2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .8rem 0; }
caption { caption-side: bottom; text-align: left; color: #666; padding-top: .4rem; }
th, td { padding: .2rem .6rem; text-align: left; vertical-align: top; }
.r { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.c { text-align: center; }
th { border-bottom: 2px solid #222; }
tbody tr:hover { background: #f3f3f3; }
tr.rule td { border-bottom: 1px solid #999; padding: 0; }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; }
.warnings { border-left: 4px solid #d55e00; padding: .4rem 1rem; background: #fdf3ec; }
figure { margin: 1rem 0; } figcaption { color: #666; font-size: .9rem; }
img { max-width: 100%; height: auto; }
pre { background: #f3f3f3; padding: .8rem; overflow-x: auto; font-size: .8rem; }
summary { cursor: pointer; margin: .6rem 0; }
@media print { .scroll { overflow: visible; } details:not([open]) { display: none; } }
"""


def page(title: str, blocks: Iterable[NamedTuple]) -> str:
    """Return blocks as an HTML document."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(map(_html, blocks))
        + "\n</body>\n</html>\n"
    )


def _html(block: NamedTuple) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{escape(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Warnings):
        lines = "".join(f"<li>{escape(line)}</li>" for line in block.lines)
        return f'<ul class="warnings">{lines}</ul>'
    if isinstance(block, Grid):
        return _table(block)
    if isinstance(block, Picture):
        data = base64.b64encode(block.file.read_bytes()).decode()
        image = f'<img src="data:image/png;base64,{data}" alt="{escape(block.caption)}">'
        return f"<figure>{image}<figcaption>{escape(block.caption)}</figcaption></figure>"
    if isinstance(block, Listing):
        return f"<pre>{escape(block.text)}</pre>"
    assert isinstance(block, Folded), block
    inside = "\n".join(map(_html, block.blocks))
    return f"<details><summary>{escape(block.summary)}</summary>\n{inside}\n</details>"


def _table(grid: Grid) -> str:
    aligns = [grid.align[min(i, len(grid.align) - 1)] for i in range(len(grid.header))]
    rows = ["<tr>" + "".join(map(_head, grid.header, aligns)) + "</tr></thead><tbody>"]
    for row in grid.rows:
        if any(row):
            cells = (f'<td class="{a}">{escape(t)}</td>' for t, a in zip(row, aligns, strict=True))
            rows.append(f"<tr>{''.join(cells)}</tr>")
        else:
            rows.append(f'<tr class="rule"><td colspan="{len(aligns)}"></td></tr>')
    caption = f"<caption>{escape(grid.caption)}</caption>" if grid.caption else ""
    body = "\n".join(rows)
    return f'<div class="scroll"><table>{caption}<thead>{body}</tbody></table></div>'


def _head(text: str, align: str) -> str:
    return f'<th class="{align}" scope="col">{escape(text)}</th>'
