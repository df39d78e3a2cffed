"""Figures of a results table: every number with its standard deviation, and ranks.

score_plot   a row for each data set, a mark for each method, the published number beside it
rank_table   a row for each method: its rank on every data set, and the mean rank
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vpjax.report.plots.style import GREY, INK, PALETTE, SIZE, figure_of, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = "osD^v"  # where there are more methods than colours

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
    published = published or {}
    height = max(0.24, 0.1 + 0.09 * len(scores))
    figure = figure_of(6.4, 0.9 + height * len(tasks) + 0.19 * -(-len(scores) // 3))
    axes = figure.subplots()
    plain(axes)
    axes.grid(axis="y", visible=False)
    for i in range(0, len(tasks), 2):  # bands lead the eye from a name to its marks
        axes.axhspan(i - 0.5, i + 0.5, color="#f3f3f3", linewidth=0, zorder=0)
    shifts = np.linspace(-0.32, 0.32, len(scores)) if len(scores) > 1 else [0.0]
    for k, ((method, found), shift) in enumerate(zip(scores.items(), shifts, strict=True)):
        _marks(axes, found, tasks, shift, k)
        places = [(v, tasks.index(t) + shift) for t, v in published.get(method, {}).items()]
        if places:
            style = {"facecolors": "white", "edgecolors": PALETTE[k % len(PALETTE)]}
            axes.scatter(*zip(*places, strict=True), s=26, marker="d", zorder=2, **style)
    axes.set_yticks(range(len(tasks)), tasks, fontsize=SIZE)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlabel("accuracy (%)", fontsize=SIZE)
    _group_names(axes, groups)
    _legend(figure, scores, any(published.values()))
    return figure


def _marks(axes: "Axes", found: Mapping[str, Score], tasks: Sequence[str], shift: float, k: int):
    for task, (mean, std) in found.items():
        axes.errorbar(
            mean,
            tasks.index(task) + shift,
            xerr=std or None,
            color=PALETTE[k % len(PALETTE)],
            marker=MARKS[k // len(PALETTE) % len(MARKS)],
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


def _legend(figure: "Figure", methods: Sequence[str], published: bool) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for k, method in enumerate(methods):
        style = {
            "color": PALETTE[k % len(PALETTE)],
            "marker": MARKS[k // len(PALETTE) % len(MARKS)],
        }
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
    axes.set_xticks(ticks, labels, rotation=45, ha="left", rotation_mode="anchor", fontsize=SIZE)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(methods)), [methods[i] for i in order], fontsize=SIZE)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
