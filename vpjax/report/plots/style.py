"""What all figures share: colours that the colour-blind can distinguish, one size of text, a
caption that says what is drawn and of how much, and the same colour for a method in all of them.

matplotlib takes half a second to import, and training must not wait for it before its first step:
modules in here import it inside the functions that draw.
"""

import textwrap
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Union
from zlib import crc32

from vpjax.core import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Okabe and Ito (2008): distinct with any colour vision, and in grey. Without the yellow, which is
# too light for text.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GREY = "#666666"
BAND = "#f3f3f3"  # of every other row
INK = "#222222"
SIZE = 9.0  # points, of all text
SMALL = 7.0  # of numbers inside cells and of captions; nothing is smaller
HEAT = "viridis"  # colours of maps: as bright as they are high, with any colour vision
MARKS = "osD^v"  # where there are more methods than colours
LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))  # in the order of the marks
# The methods of most comparisons have the colours that they have in every picture.
METHODS = {"linear": 0, "vpt_shallow": 1, "vpt_deep": 2, "full": 3, "bias": 4, "adapter": 5}
LONG = 18  # letters of a name, at most


def figure_of(width: float, height: float) -> "Figure":
    """Return an empty figure, its size in inches, that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


class Look(NamedTuple):
    """How a method is drawn."""

    colour: str
    mark: str
    line: str | tuple


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Return how to draw methods, no two alike, whichever others are drawn with them.

    A method's name decides; of two names with the same look the second has the next that is free.
    """
    names = sorted(dict.fromkeys(names), key=lambda name: (name not in METHODS, name))
    out, taken = {}, set()
    for name in names:
        if len(taken) == len(PALETTE):  # all colours once more, with the next mark
            taken = set()
        place = METHODS.get(name, crc32(name.encode()) % len(PALETTE))
        while place in taken:
            place = (place + 1) % len(PALETTE)
        taken.add(place)
        again = len(out) // len(PALETTE) % len(MARKS)
        out[name] = Look(PALETTE[place], MARKS[again], LINES[again])
    return out


def describe(figure: Union["Figure", "SubFigure"], text: str) -> None:
    """Write a caption below a figure; it is kept as the description of its file, too.

    Args:
        figure: or the lowest part of one.
        text: what is drawn, its units, of how many images and seeds, what a bar or a band spans.
    """
    width = figure.bbox.width / figure.figure.dpi  # inches
    lines = textwrap.fill(text, max(30, int(width * 72 / (0.6 * SMALL))))
    at = {"x": 0.01, "ha": "left", "fontsize": SMALL, "color": GREY}
    figure.supxlabel(lines, linespacing=1.2, **at)
    figure.figure.set_label(text)


def as_written(figure: "Figure") -> None:
    """Show the texts of a figure as they are: names in them come from files.

    matplotlib reads what is between two $ as a formula, and with usetex all of it as LaTeX. Where
    an axis is logarithmic its own numbers are formulas, and stay.
    """
    from matplotlib.axes import Axes
    from matplotlib.text import Text

    for axes in figure.findobj(Axes):
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() != "linear":
                continue
            labels = [label.get_text() for label in axis.get_ticklabels()]
            harmless = [_shown(label) for label in labels]
            if labels != harmless:
                axis.set_ticks(axis.get_ticklocs(), harmless)
            for label in axis.get_ticklabels():
                label.set_parse_math(False)
    for text in figure.findobj(Text):
        text.set_usetex(False)
        if not text.get_text().startswith(r"$\mathdefault"):
            text.set_text(_shown(text.get_text()))
            text.set_parse_math(False)


def _shown(text: str) -> str:
    return escape.terminal(text).replace("\t", " ")


def save(figure: "Figure", path: Path, dpi: int = 150) -> None:
    """Write a figure as PNG, with its caption as the file's description."""
    as_written(figure)
    text = escape.terminal(figure.get_label())
    more = {"metadata": {"Description": text}} if text else {}
    with warnings.catch_warnings():
        # Letters that the font lacks are boxes; the warning would print them as they are.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(path, dpi=dpi, bbox_inches="tight", **more)


def seeds_text(counts: Iterable[int]) -> str:
    """Return "n = 3 seeds", or "n = 1 to 3 seeds"; "" of no counts."""
    found = sorted({int(count) for count in counts})
    if not found:
        return ""
    text = " to ".join(dict.fromkeys((str(found[0]), str(found[-1]))))
    return f"n = {text} seed" + "s" * (found[-1] != 1)


def plain(axes: "Axes") -> None:
    """Remove the frame and lighten the grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SIZE - 1)


def blank(axes: "Axes") -> None:
    """Remove the ticks, for images."""
    axes.set_xticks([])
    axes.set_yticks([])


def shortened(name: str) -> str:
    """Return a name cut to what fits beside a figure."""
    return name if len(name) <= LONG else name[: LONG - 1] + "…"
