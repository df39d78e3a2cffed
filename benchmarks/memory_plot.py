"""Memory against tokens: a panel for each model and depth, a line for each pair of switches.

Needs matplotlib, as nothing else of the benchmark does.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.memory_report import SWITCHES, depth, lines, need, switched
from vpjax.report.plots.style import GREY, PALETTE, SIZE

GIGABYTE = 1e9


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes the figure."""
    found = list(lines(rows).values())
    panels = list(dict.fromkeys((line[0]["model"], line[0]["deep"]) for line in found))
    if not panels:
        return
    columns = min(2, len(panels))
    count = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.0 * count), dpi=150, layout="constrained")  # inches
    every = list(figure.subplots(count, columns, squeeze=False).flat)
    for axes, (model, deep) in zip(every, panels, strict=False):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.tick_params(labelsize=SIZE - 1)
        axes.set_title(f"ViT-{model}, {depth(deep)} prompts", fontsize=SIZE + 1, loc="left")
        axes.set_xlabel("tokens", fontsize=SIZE)
        axes.set_ylabel(f"GB a step of {rows[0]['batch']} images", fontsize=SIZE)
        for line in found:
            if (line[0]["model"], line[0]["deep"]) == (model, deep):
                draw(axes, line)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
    every[0].legend(fontsize=SIZE - 1, frameon=False, labelcolor=GREY)
    for axes in every[len(panels) :]:
        axes.remove()
    figure.savefig(path)


def draw(axes: Any, line: Sequence[dict[str, Any]]) -> None:
    """Draws one line: its colour says remat, its dashes say flash, both are in the legend."""
    switches = line[0]["flash"], line[0]["remat"]
    axes.plot(
        [row["tokens"] for row in line],
        [need(row) / GIGABYTE for row in line],
        color=PALETTE[SWITCHES.index(switches)],
        linestyle="-" if switches[0] else "--",
        linewidth=1.6,
        marker="o",
        markersize=3.5,
        label=switched(*switches),
    )
