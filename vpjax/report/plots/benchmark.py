"""Figures of a results table: every number with its standard deviation, and ranks.

score_plot   a row for each data set, a mark for each method, the published number beside it
rank_table   a row for each method: its rank on every data set, and the mean rank
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vpjax.report.plots.style import (
    BAND,
    GREY,
    INK,
    SIZE,
    SMALL,
    Look,
    describe,
    figure_of,
    looks,
    plain,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY = 9  # methods, above which marks of a row cannot be told apart

Score = tuple[float, float | None]  # mean and standard deviation, percent


def score_plot(
    scores: Mapping[str, Mapping[str, Score]],
    tasks: Sequence[str],
    published: Mapping[str, Mapping[str, float]] | None = None,
    groups: Sequence[str] = (),
) -> "Figure":
    """Draw the scores of methods on tasks.

    Args:
        scores: {method: {task: (mean, standard deviation)}}, percent.
        tasks: names of the tasks, in the order of the rows.
        published: {method: {task: percent}}.
        groups: the group of each task; tasks of a group are neighbours.

    Raises:
        ValueError: if there is no score.
    """
    if not any(scores.values()):
        raise ValueError(f"nothing to draw: no score of {', '.join(scores) or 'any method'}")
    if len(scores) > MANY:
        return score_table(scores, tasks, groups)
    published, drawn = published or {}, looks(scores)
    height = max(0.24, 0.1 + 0.09 * len(scores))
    figure = figure_of(6.4, 0.9 + height * len(tasks) + 0.19 * -(-len(scores) // 3))
    axes = figure.subplots()
    plain(axes)
    axes.grid(axis="y", visible=False)
    for i in range(0, len(tasks), 2):  # bands lead the eye from a name to its marks
        axes.axhspan(i - 0.5, i + 0.5, color=BAND, linewidth=0, zorder=0)
    shifts = np.linspace(-0.32, 0.32, len(scores)) if len(scores) > 1 else [0.0]
    for (method, found), shift in zip(scores.items(), shifts, strict=True):
        _marks(axes, found, tasks, shift, drawn[method])
        places = [(v, tasks.index(t) + shift) for t, v in published.get(method, {}).items()]
        if places:
            style = {"facecolors": "white", "edgecolors": drawn[method].colour}
            axes.scatter(*zip(*places, strict=True), s=26, marker="d", zorder=2, **style)
    axes.set_yticks(range(len(tasks)), tasks, fontsize=SIZE)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlabel("accuracy (%)", fontsize=SIZE)
    _group_names(axes, groups)
    _legend(figure, drawn, scores, any(published.values()))
    describe(figure, "Means over seeds; bars: ± one population standard deviation.")
    return figure


def score_table(
    scores: Mapping[str, Mapping[str, Score]], tasks: Sequence[str], groups: Sequence[str] = ()
) -> "Figure":
    """Draw the scores of many methods as numbers, the darker the better on a task."""
    values = np.array([[scores[m].get(t, (np.nan,))[0] for t in tasks] for m in scores], float)
    low, high = (f(values, axis=0, initial=i, where=np.isfinite(values)) for f, i in _ENDS)
    shades = (values - low) / np.maximum(high - low, 1e-9)
    longest = max(map(len, scores))
    figure = figure_of(1.2 + 0.07 * longest + 0.42 * len(tasks), 1.6 + 0.24 * len(scores))
    axes = figure.subplots()
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1.6, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        text = f"{value:.1f}" if np.isfinite(value) else "-"
        axes.text(j, i, text, ha="center", va="center", fontsize=SMALL, color=INK)
    for j in range(1, len(groups)):
        if groups[j] != groups[j - 1]:
            axes.axvline(j - 0.5, color=GREY, linewidth=0.8)
    _names_above(axes, range(len(tasks)), tasks)
    axes.set_yticks(range(len(scores)), list(scores), fontsize=SIZE)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    describe(figure, "Means over seeds in percent; the darker, the better among methods.")
    return figure


_ENDS = ((np.min, np.inf), (np.max, -np.inf))


def _names_above(axes: "Axes", places: Sequence[int], names: Sequence[str]) -> None:
    axes.set_xticks(places, names, rotation=45, ha="left", rotation_mode="anchor", fontsize=SIZE)
    axes.xaxis.tick_top()


def _marks(
    axes: "Axes", found: Mapping[str, Score], tasks: Sequence[str], shift: float, look: Look
):
    for task, (mean, std) in found.items():
        axes.errorbar(
            mean,
            tasks.index(task) + shift,
            xerr=std or None,
            color=look.colour,
            marker=look.mark,
            markersize=4.5,
            elinewidth=1.2,
            capsize=2,
            zorder=3,
        )


def _group_names(axes: "Axes", groups: Sequence[str]) -> None:
    """Separate groups by lines, and name them at the right."""
    for name in dict.fromkeys(groups):
        places = [i for i, group in enumerate(groups) if group == name]
        if places[0]:
            axes.axhline(places[0] - 0.5, color=GREY, linewidth=0.8)
        if name:
            axes.annotate(
                name,
                (1.0, np.mean(places)),
                (5, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                rotation=-90,
                va="center",
                fontsize=SIZE,
                color=GREY,
            )


def _legend(
    figure: "Figure", drawn: Mapping[str, Look], methods: Iterable[str], published: bool
) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for method in methods:
        style = {"color": drawn[method].colour, "marker": drawn[method].mark}
        handles.append(Line2D([], [], linestyle="", markersize=5, label=method, **style))
    if published:
        style = {"color": "white", "markeredgecolor": GREY, "marker": "d"}
        handles.append(Line2D([], [], linestyle="", markersize=6, label="published", **style))
    figure.legend(
        handles=handles, loc="outside upper center", ncols=3, fontsize=SIZE, frameon=False
    )


def rank_table(ranks: np.ndarray, methods: Sequence[str], tasks: Sequence[str]) -> "Figure":
    """Draw ranks (methods x tasks, NaN: no number), the method with the best mean rank on top.

    The mean is over the tasks that every method has.

    Raises:
        ValueError: if there are not as many names as ranks.
    """
    if ranks.shape != (len(methods), len(tasks)):
        raise ValueError(f"ranks {ranks.shape} of {len(methods)} methods and {len(tasks)} tasks")
    whole = np.isfinite(ranks).all(0)
    mean = ranks[:, whole].mean(1) if whole.any() else np.full(len(methods), np.nan)
    order = np.argsort(mean, kind="stable")
    shown = np.concatenate([ranks, np.full((len(methods), 1), np.nan), mean[:, None]], 1)[order]
    longest = max(map(len, methods))
    figure = figure_of(1.2 + 0.07 * longest + 0.34 * shown.shape[1], 1.5 + 0.26 * len(methods))
    axes = figure.subplots()
    axes.imshow(shown, cmap="Blues_r", vmin=-len(methods), vmax=len(methods) + 1, aspect="auto")
    for (i, j), value in np.ndenumerate(shown):
        if np.isfinite(value):
            text = f"{value:.2f}" if j > len(tasks) else f"{value:g}"
            axes.text(j, i, text, ha="center", va="center", fontsize=SIZE - 1, color=INK)
    labels = [*tasks, "mean rank"]
    ticks = [*range(len(tasks)), len(tasks) + 1]
    _names_above(axes, ticks, labels)
    axes.set_yticks(range(len(methods)), [methods[i] for i in order], fontsize=SIZE)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    describe(figure, "Ranks of means over seeds, 1 the best.")
    return figure
