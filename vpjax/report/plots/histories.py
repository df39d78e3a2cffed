"""Accuracy of several runs by epoch: training on the left, the split evaluated meanwhile on the
right. A line is a mean over seeds; where there are several, a band spans them all, unless there are
many lines.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vpjax.report.plots.style import SIZE, describe, figure_of, looks, plain, seeds_text
from vpjax.runs.scores import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY = 9  # runs, above which bands cover each other and are left out
FEW = 40  # points up to which each is marked


class Points(NamedTuple):
    """A line: n epochs, and the percent reached at each."""

    epochs: np.ndarray
    accuracy: np.ndarray


def histories(
    runs: Mapping[str, Sequence[tuple[Points, Points]]],
    evaluated: str = "validation",
    colours: Mapping[str, str] | None = None,
    metric: str = "accuracy",
) -> "Figure":
    """Draw the accuracy of runs by epoch.

    Args:
        runs: {label: (training, evaluated) of each seed}.
        evaluated: name of the split that was evaluated during training.
        colours: {label: "#0077BB"}, of labels that have one of their own.
        metric: what was evaluated, "accuracy" or "map".

    Raises:
        ValueError: if there is not a single point.
    """
    from matplotlib.ticker import MaxNLocator

    panels = [(0, "training accuracy (%)"), (1, f"{evaluated} {NAMES[metric]} (%)")]
    has_points = lambda side: any(len(s[side].epochs) for seeds in runs.values() for s in seeds)  # noqa: E731
    panels = [panel for panel in panels if has_points(panel[0])]
    if not panels:
        raise ValueError(f"nothing to draw: no accuracy in the history of {', '.join(runs)}")
    drawn, bands = looks(runs), len(runs) <= MANY
    figure = figure_of(1.2 + 2.9 * len(panels), max(2.9, 0.5 + 0.19 * len(runs)))
    same = metric == "accuracy"  # training has no other: heights of both sides can be compared
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=same)[0]
    for axes, (side, title) in zip(grid, panels, strict=True):
        plain(axes)
        axes.set_title(title, fontsize=SIZE, loc="left")
        axes.set_xlabel("epoch", fontsize=SIZE)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for label, seeds in runs.items():
            colour = (colours or {}).get(label, drawn[label].colour)
            found = [seed[side] for seed in seeds]
            _line(axes, found, label, colour, drawn[label].line, bands)
        axes.set_xlim(left=0)
    handles = {h.get_label(): h for axes in grid for h in axes.lines}
    figure.legend(handles=handles.values(), loc="outside right upper", fontsize=SIZE, frameon=False)
    text = f"Lines: means over seeds ({seeds_text(map(len, runs.values()))})"
    if len(panels) > 1:
        text += "; training: averaged over the steps before, with augmentation and dropout if any"
    describe(figure, text + ("; bands: from the lowest to the highest seed." if bands else "."))
    return figure


def points(
    rows: Sequence[Mapping[str, Any]], steps_per_epoch: int, metric: str = "accuracy"
) -> tuple[Points, Points]:
    """Return (training, evaluated) from the lines of a metrics file.

    Training accuracy is averaged over all steps since the evaluation before, if there are any.
    """
    of = lambda key: [(r["step"], r[key]) for r in rows if r.get(key) is not None]  # noqa: E731
    training, evaluated = of("accuracy"), of(f"val_{metric}")
    if evaluated and training:
        training = _between(training, [step for step, _ in evaluated])
    return _points(training, steps_per_epoch), _points(evaluated, steps_per_epoch)


def _between(rows: list[tuple[int, float]], ends: list[int]) -> list[tuple[int, float]]:
    """Average values of the rows over the steps between two ends."""
    steps, values = np.array(rows, float).T
    counts = np.diff(steps, prepend=0)
    out, first = [], 0
    for end in ends:
        inside = (steps > first) & (steps <= end)
        if inside.any():
            out.append((end, np.average(values[inside], weights=counts[inside])))
        first = end
    return out


def _points(pairs: list[tuple[int, float]], steps_per_epoch: int) -> Points:
    steps, values = np.array(pairs, float).reshape(-1, 2).T
    return Points(steps / steps_per_epoch, values)


def _line(
    axes: "Axes",
    seeds: Sequence[Points],
    label: str,
    colour: str,
    style: str | tuple,
    bands: bool,
) -> None:
    """Draw the mean over seeds at each epoch; if `bands`, one from the lowest to the highest.

    Epochs that not all seeds have reached are left out: the mean would be of others.
    """
    at: dict[float, list[float]] = {}
    for seed in seeds:
        for epoch, value in zip(*seed, strict=True):
            at.setdefault(epoch, []).append(value)
    reached = sum(len(seed.epochs) > 0 for seed in seeds)
    epochs = sorted(epoch for epoch, values in at.items() if len(values) == reached)
    if not epochs:
        return
    marker = "o" if len(epochs) == 1 or (bands and len(epochs) <= FEW) else ""
    means = [np.mean(at[e]) for e in epochs]
    axes.plot(
        epochs, means, linestyle=style, color=colour, marker=marker, markersize=3.5, label=label
    )
    if bands and len(seeds) > 1:
        low, high = ([f(at[e]) for e in epochs] for f in (min, max))
        axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
