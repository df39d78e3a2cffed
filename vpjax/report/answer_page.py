"""Predictions as a page: pictures with what a run says of them, one file that fetches nothing.

It shows at most `MOST` pictures, small; the counts are of all.
"""

import base64
import io
from pathlib import Path

from PIL import Image

from vpjax.core import escape
from vpjax.data.images import PLAIN, Decoding, decode
from vpjax.report.answer_style import SCRIPT, STYLE
from vpjax.runs.predict import Answer, Tally

MOST = 500  # pictures of a page
EDGE = 224  # pixels of a picture, at most
SMALL = 64  # pixels up to which a picture is shown in squares
BARS = 30  # classes whose counts are shown


class AnswerPage:
    """A page of pictures with predictions.

    Args:
        file: to write to.
        title: of the page.
        about: a line on the run.
        how: pictures are decoded.
        most: pictures that are shown, the first ones.
    """

    def __init__(
        self, file: io.TextIOBase, title: str, about: str, how: Decoding = PLAIN, most: int = MOST
    ):
        self._file, self._title, self._about = file, title, about
        self._how, self._most, self._cards = how, most, []

    def add(self, answer: Answer) -> None:
        """Take in an answer; only the first are kept."""
        if len(self._cards) < self._most:
            self._cards.append(card(answer, self._how))

    def close(self, tally: Tally) -> None:
        """Write the page."""
        self._file.write(page(self._title, self._about, self._cards, tally))


def page(title: str, about: str, cards: list[str], tally: Tally) -> str:
    """Return a page as HTML.

    Args:
        title: of the page.
        about: a line on the run.
        cards: of the pictures that are shown.
        tally: of all answers.
    """
    facts = [f"<b>{tally.images:,}</b> images", f"<b>{tally.seconds:.1f}</b> s"]
    if tally.accuracy is not None:
        facts.insert(1, f"<b>{tally.accuracy:.1f} %</b> right, by the names of their folders")
    if tally.skipped:
        facts.append(f"<b>{len(tally.skipped)}</b> could not be read")
    shown = "" if len(cards) >= tally.images else f"; the first {len(cards):,} are shown"
    lines = "".join(
        f"<li><code>{_text(path)}</code> {_text(why)}</li>" for path, why in tally.skipped.items()
    )
    lost = f"<details><summary>Files left out</summary><ul>{lines}</ul></details>" if lines else ""
    options = "".join(f"<option>{_text(name)}</option>" for name in sorted(tally.classes))
    wrong = '<option value="!">wrong ones</option>' if tally.accuracy is not None else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<header><h1>{_text(title)}</h1><p class="about">{_text(about)}</p>'
        f'<p class="facts">{" · ".join(facts)}{shown}</p></header>\n'
        f"{counts(tally)}{lost}\n"
        '<form class="tools" hidden><label>Show <select name="of"><option value="">all</option>'
        f"{wrong}{options}</select></label>"
        '<label>Order <select name="by"><option value="">as given</option>'
        '<option value="up">least sure first</option><option value="down">surest first</option>'
        '</select></label><output></output></form>\n<main class="cards">\n'
        + "\n".join(cards)
        + f"\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def counts(tally: Tally) -> str:
    """Return how many images each class has, as bars."""
    common = tally.classes.most_common(BARS)
    if len(common) < 2:
        return ""
    most = common[0][1]
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td><i style="width:{100 * n / most:.1f}%"></i>'
        f"</td><td>{n:,}</td></tr>"
        for name, n in common
    )
    more = len(tally.classes) - len(common)
    rest = f"<p>and {more} more classes</p>" if more else ""
    return f'<section><h2>Predicted classes</h2><table class="bars">{rows}</table>{rest}</section>'


def card(answer: Answer, how: Decoding = PLAIN) -> str:
    """Return the picture of an answer, and what the run says of it, as HTML.

    Args:
        answer: of a file.
        how: it is decoded.
    """
    best = zip(answer.names, answer.shares, strict=True)
    rows = "".join(
        f'<li><i style="width:{100 * share:.1f}%"></i><span>{_text(name)}</span>'
        f"<b>{100 * share:.1f} %</b></li>"
        for name, share in best
    )
    more, wrong = "", ""
    if answer.classes:
        more = f'<p class="true">all: {_text(", ".join(answer.classes))}</p>'
    if answer.true and answer.true != answer.names[0]:
        more, wrong = f'<p class="true">is {_text(answer.true)}</p>', " data-wrong"
    path = _text(answer.path)
    name = _text(Path(answer.path).name)
    first = f'data-class="{_text(answer.names[0])}" data-share="{answer.shares[0]:.6f}"'
    return (
        f"<article {first}{wrong}>"
        f'{thumbnail(answer.path, how)}<ol>{rows}</ol>{more}<p class="file" title="{path}">'
        f"{name}</p></article>"
    )


def thumbnail(path: str, how: Decoding = PLAIN) -> str:
    """Return a small picture as HTML, its pixels inside; a blank one if the file has gone.

    Args:
        path: of the file.
        how: it is decoded.
    """
    try:
        image = Image.fromarray(decode(Path(path).read_bytes(), 3, how))
    except Exception:  # it was readable a moment ago; Pillow raises a dozen kinds
        return '<div class="picture"></div>'
    source, pixels = encoded(image)
    kind = ' class="small"' if pixels else ""
    alt = _text(Path(path).name)
    return f'<div class="picture"><img{kind} src="{source}" alt="{alt}" loading="lazy"></div>'


def encoded(image: Image.Image, edge: int = EDGE) -> tuple[str, bool]:
    """Return a small copy of a picture as an address that holds it, "data:image/png;base64,...".

    Args:
        image: L or RGB.
        edge: pixels that it is high and wide at most.

    Returns:
        The address; and whether it is so small that its pixels are to be shown as squares.
    """
    image = image.copy()
    image.thumbnail((edge, edge))
    small = max(image.size) <= SMALL
    kind = {"format": "PNG"} if small else {"format": "JPEG", "quality": 85}
    data = io.BytesIO()
    image.save(data, **kind)
    text = base64.b64encode(data.getvalue()).decode()
    return f"data:image/{kind['format'].lower()};base64,{text}", small


def _text(text: str) -> str:
    return escape.html(text)
