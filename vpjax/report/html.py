"""A report as one HTML file: style, script and pictures are inside, nothing is fetched.

Everything that comes from data is escaped, and a policy in the page lets a browser run nothing but
the script of `vpjax.report.page_style`, should a text slip through.
"""

import base64
import hashlib
import io
import re
from collections.abc import Iterable
from typing import NamedTuple

from vpjax.core import escape
from vpjax.data.decoders import open_image
from vpjax.report.blocks import (
    Facts,
    Folded,
    Grid,
    Heading,
    Listing,
    Picture,
    Rich,
    Sheet,
    Text,
    Warnings,
)
from vpjax.report.page_style import SCRIPT, STYLE

LONG = 25  # rows, above which a table scrolls inside a box
INCH = 116  # pixels of the page: text of 9 points in a picture is a little smaller than around it
NARROW, WORD = 24, 30  # letters: up to which a cell is one line, and above which a word breaks
_SHA = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_SHA}'; "
    "base-uri 'none'; form-action 'none'"
)
ICON = '<link rel="icon" href="data:,">'  # or browsers ask for one


def page(title: str, blocks: Iterable[NamedTuple]) -> str:
    """Return blocks as an HTML document; headings of level 2 are listed below the title's text."""
    blocks = list(blocks)
    names = _anchors(blocks)
    parts = [_html(block, names.get(i, "")) for i, block in enumerate(blocks)]
    if len(names) > 2:
        links = "".join(
            f'<a href="#{name}">{escape.html(blocks[i].text)}</a>' for i, name in names.items()
        )
        parts.insert(min(names), f"<nav>{links}</nav>")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape.html(POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{ICON}\n<title>{escape.html(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _anchors(blocks: list[NamedTuple]) -> dict[int, str]:
    """Return the id of each heading of level 2, by its place among the blocks."""
    out, taken = {}, set()
    for i, block in enumerate(blocks):
        if isinstance(block, Heading) and block.level == 2:
            name = re.sub(r"[^a-z0-9]+", "-", block.text.lower()).strip("-") or "section"
            out[i] = name if name not in taken else f"{name}-{i}"
            taken.add(out[i])
    return out


def _html(block: NamedTuple, name: str = "") -> str:
    if isinstance(block, Heading):
        mark = f' id="{name}"' if name else ""
        return f"<h{block.level}{mark}>{escape.html(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Warnings):
        lines = "".join(f"<li>{escape.html(line)}</li>" for line in block.lines)
        return f'<ul class="warnings">{lines}</ul>'
    if isinstance(block, Facts):
        return f'<dl class="facts">{"".join(_fact(*item) for item in block.items)}</dl>'
    if isinstance(block, Grid):
        return _table(block)
    if isinstance(block, Picture):
        try:
            data, text, width = _opened(block)
        except Exception as error:  # Pillow raises a dozen kinds; anybody may have made the file
            reason = f"{block.file.name} cannot be shown ({type(error).__name__})."
            return f"<p>{escape.html(reason)}</p>"
        image = _image(data, text, more=f' width="{width}"')
        return f"<figure>{image}<figcaption>{escape.html(block.caption)}</figcaption></figure>"
    if isinstance(block, Sheet):
        try:
            return _sheet(block)
        except Exception as error:
            reason = f"{block.file.name} cannot be shown ({type(error).__name__})."
            return f"<p>{escape.html(reason)}</p>"
    if isinstance(block, Listing):
        return f"<pre>{escape.html(block.text)}</pre>"
    assert isinstance(block, Folded), block
    inside = "\n".join(map(_html, block.blocks))
    return f"<details><summary>{escape.html(block.summary)}</summary>\n{inside}\n</details>"


def _opened(picture: Picture) -> tuple[bytes, str, int]:
    """Return a picture's file, what it shows in words, and its width in pixels of the page.

    The words are its caption and the text that was saved with it. A picture without a resolution
    has one pixel of its own for each.
    """
    with open_image(picture.file) as image:
        text = image.info.get("Description", "")
        dpi = image.info.get("dpi", (INCH, INCH))[0] or INCH
        width = round(image.width * INCH / dpi)
    return (
        picture.file.read_bytes(),
        f"{picture.caption}. {text}" if text else picture.caption,
        width,
    )


def _image(data: bytes, alt: str, more: str) -> str:
    source = base64.b64encode(data).decode()
    return f'<img{more} src="data:image/png;base64,{source}" alt="{escape.html(alt)}">'


def _sheet(sheet: Sheet) -> str:
    """Return each row as a picture of its own, which wraps as the window is narrow."""
    out = []
    with open_image(sheet.file) as whole:
        height = whole.height // max(len(sheet.rows), 1)
        for i, caption in enumerate(sheet.rows):
            data = io.BytesIO()
            whole.crop((0, i * height, whole.width, (i + 1) * height)).save(data, "PNG")
            image = _image(data.getvalue(), caption, ' class="row"')
            out.append(f"<figure>{image}<figcaption>{escape.html(caption)}</figcaption></figure>")
    return f'<div class="sheet">{"".join(out)}</div>'


def _fact(name: str, value: str, note: str) -> str:
    below = f'<dd class="note">{escape.html(note)}</dd>' if note else ""
    return f'<div><dt>{escape.html(name)}</dt><dd class="value">{_inline(value)}</dd>{below}</div>'


def _inline(text: str) -> str:
    """Return a text, with its address and its tip where it has some."""
    out = escape.html(text)
    if isinstance(text, Rich) and text.tip:
        out = f'<span title="{escape.html(text.tip)}">{out}</span>'
    if isinstance(text, Rich) and text.href:
        out = f'<a href="{escape.html(text.href)}">{out}</a>'
    return out


def _table(grid: Grid) -> str:
    aligns = [grid.align[min(i, len(grid.align) - 1)] for i in range(len(grid.header))]
    head = "".join(map(_head, grid.header, aligns))
    bodies: list[list[str]] = [[]]
    for row in grid.rows:
        if not any(row):  # a ruled line
            bodies.append([])
            continue
        cells = (
            f'<td class="{_kind(t, a)}">{_inline(t)}</td>' for t, a in zip(row, aligns, strict=True)
        )
        kind = ' class="follows"' if grid.follows and row[0] == grid.follows else ""
        bodies[-1].append(f"<tr{kind}>{''.join(cells)}</tr>")
    body = "".join("<tbody>" + "\n".join(rows) + "</tbody>" for rows in bodies if rows)
    kind = "scroll long" if len(grid.rows) > LONG else "scroll"
    # A box that scrolls must be reachable by keyboard.
    out = f'<div class="{kind}" tabindex="0"><table><thead><tr>{head}</tr></thead>{body}'
    out += "</table></div>"
    return out + (f'<p class="caption">{escape.html(grid.caption)}</p>' if grid.caption else "")


def _cell(text: str, align: str) -> str:
    return f'<td class="{_kind(text, align)}">{_inline(text)}</td>'


def _kind(text: str, align: str) -> str:
    """Return the classes of a cell: alignment, one line if it is short, broken if it has to be."""
    if len(text) <= NARROW:
        return f"{align} n"
    return f"{align} w" if any(len(word) > WORD for word in text.split()) else align


def _head(text: str, align: str) -> str:
    return f'<th class="{align}" scope="col">{escape.html(text)}</th>'
