"""What all pictures share: colours that the colour-blind tell apart, one size of text."""

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart with any colour vision, and in grey. Without the yellow, which
# is too light for text.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GREY = "#666666"
INK = "#222222"
SIZE = 9.0  # points, of all text
LONG = 18  # letters of a name


def figure_of(width: float, height: float) -> Figure:
    """Returns an empty figure, its size in inches, that needs no display."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Axes) -> None:
    """Takes away what is no data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SIZE - 1)


def blank(axes: Axes) -> None:
    """Takes the ticks away, for pictures."""
    axes.set_xticks([])
    axes.set_yticks([])


def named(name: str) -> str:
    """Returns a name that fits beside a picture."""
    return name if len(name) <= LONG else name[: LONG - 1] + "…"
