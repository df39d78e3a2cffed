"""Learning curves of one run, and several methods side by side.

    curves      loss, accuracy and learning rate over a common axis of steps
    comparison  accuracy against trainable parameters, a point for each method

Figures are made without pyplot, which keeps every figure alive and picks a window system. A line
or a point has its name beside it, in its colour; labels are moved so that none covers another.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vpjax.core import escape
from vpjax.report.plots.ranking import comparison_caption, ranking
from vpjax.report.plots.style import (
    GREY,
    PALETTE,
    SIZE,
    as_written,
    describe,
    figure_of,
    looks,
    plain,
    save,
)
from vpjax.runs.history import read_history
from vpjax.runs.scores import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

MANY = 9  # methods, above which labels of points would cover each other

# Panel: title of its axis, (key, name beside the line, colour), share of the height.
_PANELS = (
    ("loss", (("loss", "training", 0), ("val_loss", "validation", 1)), 3.0),
    ("accuracy (%)", (("accuracy", "training", 0), ("val_accuracy", "validation", 1)), 3.0),
    ("mAP (%)", (("val_map", "validation", 1),), 3.0),
    ("learning\nrate", (("lr", "", 2),), 1.0),
)


def draw_curves(folder: Path) -> None:
    """Draw the history of a run's folder to its curves.png.

    Raises:
        ValueError: if there is nothing to draw yet.
    """
    rows = read_history(folder / "metrics.jsonl")
    save(curves(rows, title=folder.name), folder / "curves.png")


def curves(rows: Sequence[dict[str, Any]], title: str = "") -> "Figure":
    """Draw loss, accuracy (mAP) in % and learning rate against the training step.

    Args:
        rows: lines of a metrics file: each has `step` and some of `loss`, `val_loss`, `accuracy`,
            `val_accuracy`, `val_map`, `lr`. Where a row lacks a key the line continues; a value of
            None was not finite, and the line has a gap.

    Raises:
        ValueError: if no row has any of these.
    """
    from matplotlib.ticker import MaxNLocator

    panels = []
    for label, series, height in _PANELS:
        found = [(*_points(rows, key), *rest) for key, *rest in series]
        found = [line for line in found if np.isfinite(line[1]).any()]
        if found:
            panels.append((label, found, height))
    if not panels:
        keys = sorted({key for row in rows for key in row})
        wanted = [key for _, series, _ in _PANELS for key, *_ in series]
        raise ValueError(
            f"nothing to draw: {len(rows)} rows with keys {', '.join(keys) or '(none)'}; "
            f"expected finite values of some of {', '.join(wanted)}"
        )

    heights = [height for *_, height in panels]
    figure = figure_of(5.6, 0.8 + 0.62 * sum(heights))
    grid = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (label, found, height) in zip(grid, panels, strict=True):
        plain(axes)
        axes.set_ylabel(label, fontsize=SIZE)
        if height < 2:  # no room for more ticks than the peak
            peak = max(np.nanmax(y) for _, y, *_ in found) or 1.0
            axes.set_yticks([0.0, peak], ["0", f"{peak:.3g}"])
            axes.set_ylim(-0.12 * peak, 1.12 * peak)
        for x, y, name, colour in found:
            # Many points are noise to be seen through; few are shown each, also between gaps.
            few = np.isfinite(y).sum() <= 40
            axes.plot(
                x,
                y,
                color=PALETTE[colour],
                linewidth=1.6 if few or not name else 0.8,
                marker="o" if few else "",
                markersize=3.5,
            )
    grid[-1].set_xlabel("training step", fontsize=SIZE)
    last = max(x[-1] for _, found, _ in panels for x, *_ in found)
    grid[-1].set_xlim(0, 1.02 * max(last, 1))
    grid[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    grid[0].set_title(title, fontsize=SIZE + 1, loc="left")
    describe(
        figure,
        "Training: means over the steps since the point before, of images as they are trained on. "
        "Validation: all its images, with the weights of that step.",
    )
    figure.align_ylabels(list(grid))
    as_written(figure)
    figure.draw_without_rendering()  # fixes the scales, which the labels below are spread on
    for axes, (_, found, _) in zip(grid, panels, strict=True):
        _label_ends(axes, found)
    return figure


def comparison(rows: Sequence[dict[str, Any]]) -> "Figure":
    """Draw the accuracy of methods against how many parameters they train, on a log axis.

    A method that trains nothing is a horizontal line. More than 9 rows are drawn one below the
    other, see `vpjax.report.plots.ranking`.

    Args:
        rows: one for each method, with `label`, `mean` (%), `trainable` (a count) and perhaps `std`
            (%), drawn as an error bar, and `metric`, "accuracy" or "map".

    Raises:
        ValueError: if there is no row, or one has no finite mean.
    """
    if not rows:
        raise ValueError("nothing to compare: no rows; expected one for each method")
    for row in rows:
        if not _finite(row.get("mean")):
            raise ValueError(f"{row.get('label')!r} has mean {row.get('mean')}; expected percent")
    stds = [row["std"] if _finite(row.get("std")) else 0.0 for row in rows]
    if len(rows) > MANY:
        return ranking(rows, stds, _metric_label(rows))
    figure = figure_of(5.6, 3.6)
    axes = figure.subplots()
    plain(axes)
    axes.set_xscale("log")
    axes.set_xlabel("trainable parameters", fontsize=SIZE)
    axes.set_ylabel(_metric_label(rows), fontsize=SIZE)
    _limits(axes, rows, stds)

    drawn = looks(row["label"] for row in rows)
    for row, std in zip(rows, stds, strict=True):
        x, y, colour = row["trainable"], row["mean"], drawn[row["label"]].colour
        if x > 0:
            axes.errorbar(
                x,
                y,
                yerr=std or None,
                color=colour,
                marker=drawn[row["label"]].mark,
                markersize=7,
                markeredgecolor="white",  # separates points that lie on each other
                markeredgewidth=0.5,
                elinewidth=1.4,
                capsize=3,
                capthick=1.4,
                zorder=3,
            )
        else:
            axes.axhline(y, color=colour, linestyle="--", linewidth=1.2, zorder=1)
    describe(figure, comparison_caption(rows))
    as_written(figure)
    figure.draw_without_rendering()  # fixes the axes, which the labels below are placed in
    _label_points(axes, rows, stds)
    return figure


def _metric_label(rows: Sequence[dict[str, Any]]) -> str:
    names = dict.fromkeys(NAMES[row.get("metric", "accuracy")] for row in rows)
    return f"{' or '.join(names)} (%)"


def _ink(colour: str) -> tuple[float, ...]:
    """Return a darker shade: thin letters need more contrast than lines."""
    from matplotlib.colors import to_rgb

    return tuple(0.75 * part for part in to_rgb(colour))


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _points(rows: Sequence[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(row["step"], row[key]) for row in rows if key in row and "step" in row]
    pairs = sorted((x, y if _finite(y) else math.nan) for x, y in pairs)
    return np.array([x for x, _ in pairs], float), np.array([y for _, y in pairs], float)


def _label_ends(axes: "Axes", found: list) -> None:
    """Write every line's name and last value to the right of its last point."""
    ends = []
    for x, y, name, colour in found:
        last = np.flatnonzero(np.isfinite(y))[-1]
        ends.append((x[last], y[last], name, colour))
    points = 72 / axes.figure.dpi  # a pixel
    heights = [axes.transData.transform((x, y))[1] * points for x, y, *_ in ends]
    shifted = _spread(heights, SIZE * 1.25)
    right = axes.get_xlim()[1]
    accuracy = "%" in axes.get_ylabel()
    for (_, y, name, colour), height, place in zip(ends, heights, shifted, strict=True):
        if not name:
            continue
        value = f"{y:.1f}" if accuracy else f"{y:#.3g}".rstrip(".")
        axes.annotate(
            f"{name} {value}",
            (right, y),
            (4, place - height),
            textcoords="offset points",
            va="center",
            color=_ink(PALETTE[colour]),
            fontsize=SIZE,
            annotation_clip=False,
        )


def _spread(places: list[float], gap: float) -> list[float]:
    """Move places at least `gap` apart, keeping their order and the middle of each crowd."""
    order = sorted(range(len(places)), key=places.__getitem__)
    crowds: list[tuple[float, list[int]]] = []  # (centre, members)
    for i in order:
        centre, members = places[i], [i]
        while crowds and centre - crowds[-1][0] < gap * (len(members) + len(crowds[-1][1])) / 2:
            _, others = crowds.pop()
            members = others + members
            centre = sum(places[j] for j in members) / len(members)
        crowds.append((centre, members))
    moved = list(places)
    for centre, members in crowds:
        for rank, i in enumerate(members):
            moved[i] = centre + gap * (rank - (len(members) - 1) / 2)
    return moved


def _limits(axes: "Axes", rows: Sequence[dict], stds: list[float]) -> None:
    """Leave room for labels around the outermost points."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    counts = [row["trainable"] for row in rows if row["trainable"] > 0] or [1]
    decades = math.log10(max(counts) / min(counts))
    margin = max(0.18 * decades, (1.2 - decades) / 2)
    axes.set_xlim(min(counts) / 10**margin, max(counts) * 10**margin)
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if decades < 2 else (1,)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low = min(row["mean"] - std for row, std in zip(rows, stds, strict=True))
    high = max(row["mean"] + std for row, std in zip(rows, stds, strict=True))
    room = 0.22 * max(high - low, 1.0)
    top = high + room
    axes.set_ylim(low - room, top if high > 100 else min(top, 100.5))


def _label_points(axes: "Axes", rows: Sequence[dict], stds: list[float]) -> None:
    """Put name and accuracy of each method at the nearest free place around its point."""
    from matplotlib.transforms import Bbox

    renderer = axes.figure.canvas.get_renderer()
    pixel = axes.figure.dpi / 72  # pixels a point
    centres, taken = [], []
    for row, std in zip(rows, stds, strict=True):
        x, y = row["trainable"], row["mean"]
        (left, low), (right, high) = axes.transData.transform(
            [(max(x, 1), y - std), (max(x, 1), y + std)]
        )
        if x <= 0:
            left, right = axes.bbox.x0, axes.bbox.x1
        centres.append(np.array([left, (low + high) / 2]))
        pad = (5 if x > 0 else 1) * pixel
        taken.append(Bbox.from_extents(left, low, right, high).padded(pad))
    drawn = looks(row["label"] for row in rows)
    for row, std, centre in zip(rows, stds, centres, strict=True):
        line = row["trainable"] <= 0
        value = f"{row['mean']:.1f}" + (f" ± {std:.1f}" if std else "")
        label = axes.annotate(
            (" " if line else "\n").join([escape.one_line(row["label"]), value]),
            axes.transAxes.inverted().transform(centre),
            (0, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            va="center",
            color=_ink(drawn[row["label"]].colour),
            fontsize=SIZE,
            linespacing=1.15,
            zorder=4,
        )
        label.set_parse_math(False)  # a name may hold $
        label.set_in_layout(False)  # inside the axes already; must not move them
        size = label.get_window_extent(renderer)
        shifts = _along(size, axes.bbox, pixel) if line else _around(size, pixel)
        # Ties go to the first, which is the nearest.
        shift = min(shifts, key=lambda shift: _cost(axes.bbox, taken, size.translated(*shift)))
        label.set_position(tuple(shift / pixel))
        label.set_multialignment({1: "left", 0: "center", -1: "right"}[_side(shift, size)])
        box = size.translated(*shift)
        taken.append(box)
        nearest = np.clip(centre, box.min, box.max)
        if not line and np.hypot(*(nearest - centre)) > 12 * pixel:  # not plain whose label it is
            ends = axes.transData.inverted().transform([centre, nearest])
            axes.plot(*ends.T, color=GREY, linewidth=0.6, zorder=2)


def _side(shift: np.ndarray, size: "Bbox") -> int:
    """Return where a label is: 1 right of its point, -1 left, 0 above or below."""
    return 0 if abs(shift[0]) < size.width / 3 else int(np.sign(shift[0]))


def _around(size: "Bbox", pixel: float) -> list[np.ndarray]:
    """Return places of a label's centre around its point in pixels, the nearest first."""
    shifts = []
    for gap in (8, 14, 24, 36, 50, 66, 84):  # points
        for degrees in (0, 90, 180, 270, 35, 145, -35, -145):
            angle = math.radians(degrees)
            reach = np.array([size.width, size.height]) / 2 + gap * pixel
            shifts.append(np.array([math.cos(angle), math.sin(angle)]) * reach)
    return shifts


def _along(size: "Bbox", inside: "Bbox", pixel: float) -> list[np.ndarray]:
    """Return places of a label's centre above and below a line across the axes."""
    up = size.height / 2 + 3 * pixel
    starts = [
        share * inside.width + size.width / 2 + 4 * pixel for share in np.linspace(0, 0.9, 19)
    ]
    return [np.array([start, side * up]) for start in starts for side in (1, -1)]


def _cost(inside: "Bbox", taken: "list[Bbox]", box: "Bbox") -> int:
    """Return how many square pixels of a label would cover others or lie outside the axes."""
    from matplotlib.transforms import Bbox

    shared = [Bbox.intersection(box, other) for other in taken]
    cost = sum(part.width * part.height for part in shared if part is not None)
    kept = Bbox.intersection(box, inside)
    outside = box.width * box.height - (0.0 if kept is None else kept.width * kept.height)
    return round(cost + outside)
