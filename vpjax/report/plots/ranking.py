"""The results of many methods, one line each, the best on top.

    full            |                 o--|    97.6 ± 0.3    100.0 %
    vpt_shared      |              o---       95.2 ± 1.1      0.5 %

More than a handful of points cannot be labelled readably; lines can.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vpjax.core.table import mean_std
from vpjax.report.plots.style import (
    BAND,
    GREY,
    INK,
    SIZE,
    describe,
    figure_of,
    looks,
    plain,
    seeds_text,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def ranking(rows: Sequence[dict[str, Any]], stds: Sequence[float], title: str) -> "Figure":
    """Draw `mean` ± `stds` (%) of every row beside its `label` and its share, `percent`."""
    order = sorted(range(len(rows)), key=lambda i: rows[i]["mean"])
    figure = figure_of(5.6, 0.7 + 0.2 * len(rows))
    axes = figure.subplots()
    plain(axes)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(title, fontsize=SIZE)
    axes.set_yticks(range(len(rows)), [rows[i]["label"] for i in order], fontsize=SIZE)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    drawn = looks(row["label"] for row in rows)
    for place, i in enumerate(order):
        row, std = rows[i], stds[i]
        if place % 2:  # bands lead the eye from a name to its numbers
            axes.axhspan(place - 0.5, place + 0.5, color=BAND, linewidth=0, zorder=0)
        axes.errorbar(
            row["mean"],
            place,
            xerr=std or None,
            color=drawn[row["label"]].colour,
            marker=drawn[row["label"]].mark,
            markersize=5,
            elinewidth=1.4,
            capsize=2.5,
        )
    right = axes.twinx()
    plain(right)
    right.grid(visible=False)
    right.tick_params(length=0)
    right.set_ylim(axes.get_ylim())
    texts = [_text(rows[i], stds[i] if any(stds) else None) for i in order]
    right.set_yticks(range(len(rows)), texts, fontsize=SIZE - 1, color=INK, family="monospace")
    right.set_title(
        f"{title.removesuffix(' (%)')}, share trained", fontsize=SIZE - 1, color=GREY, loc="right"
    )
    describe(figure, comparison_caption(rows))
    return figure


def comparison_caption(rows: Sequence[dict[str, Any]]) -> str:
    """Return what a picture of methods shows: of how many seeds and images, and what a bar is."""
    n = [seeds_text(row["seeds"] for row in rows if row.get("seeds"))]
    if images := {f"{row['images']:,}" for row in rows if row.get("images")}:
        n.append(f"{' or '.join(sorted(images))} images")
    text = f"Means over seeds ({', '.join(part for part in n if part)})" if any(n) else "Means"
    bars = any(row.get("std") for row in rows)
    return text + ("; bars: ± one population standard deviation." if bars else ".")


def _text(row: dict[str, Any], std: float | None) -> str:
    value = mean_std(row["mean"], std, 1)
    return value + (f" {row['percent']:6.1f} %" if "percent" in row else "")
