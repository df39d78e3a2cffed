"""Accuracy by the number of training images of each class: a line for each method."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vpjax.report.plots.style import SIZE, describe, figure_of, looks, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves(lines: Mapping[str, Sequence[tuple[int, float | None]]], data_sets: int) -> "Figure":
    """Draw test accuracy by shots.

    Args:
        lines: {method: (shots, percent or None) ...}.
        data_sets: how many data sets the percents are means over.
    """
    figure = figure_of(5.4, 3.2)
    axes = figure.subplots()
    plain(axes)
    drawn = looks(lines)
    ticks = sorted({shots for line in lines.values() for shots, _ in line})
    place = {shots: i for i, shots in enumerate(ticks)}  # equal steps: each doubles the last
    for method, line in lines.items():
        known = [(place[k], value) for k, value in sorted(line) if value is not None]
        if known:
            x, y = zip(*known, strict=True)
            look = drawn[method]
            style = {"color": look.colour, "linestyle": look.line, "marker": look.mark}
            axes.plot(x, y, markersize=4, label=method, **style)
    axes.set_xticks(range(len(ticks)), [str(k) for k in ticks])
    axes.set_xlabel("images of each class", fontsize=SIZE)
    text = f", mean of {data_sets} data sets" if data_sets > 1 else ""
    axes.set_title(f"test accuracy (%){text}", fontsize=SIZE, loc="left")
    figure.legend(loc="outside right upper", fontsize=SIZE, frameon=False)
    describe(figure, f"Test accuracy by images of each class in training{text}; means over seeds.")
    return figure
