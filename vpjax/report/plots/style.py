"""What all figures share: colours that the colour-blind can distinguish, one size of text.

matplotlib takes half a second to import, and training must not wait for it before its first step:
modules in here import it inside the functions that draw.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): distinct with any colour vision, and in grey. Without the yellow, which is
# too light for text.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GREY = "#666666"
INK = "#222222"
SIZE = 9.0  # points, of all text
LONG = 18  # letters of a name, at most


def figure_of(width: float, height: float) -> "Figure":
    """Return an empty figure, its size in inches, that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


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
