"""Figures of ablations: bars of accuracy over seeds, and the number of prompt parameters.

choices     a group of bars for each cell, validation and test; parameters that prompts add
backbones   a panel for each data set: each network without and with prompts
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vpjax.report.plots.style import GREY, INK, PALETTE, SIZE, figure_of, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    "global": "Global Only",
    "global+mid": "Global + Mid",
    "full": "Full Multi-Scale",
    "add": "Addition",
    "concat": "Concatenation",
    "gated": "Gated",
    "cnn": "CNN",
    "resnet18": "ResNet-18",
    "vit": "ViT-Tiny",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
}


def choices(cells: Sequence[dict[str, Any]]) -> "Figure":
    """Draw `val_acc` and `test_acc` (%) of every cell beside its `prompt_parameters`.

    A cell without numbers keeps its place.
    """
    figure = figure_of(2.6 + 1.7 * len(cells), 3.4)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    names = [TITLES.get(c["cell"], c["cell"]) for c in cells]
    bars(
        left,
        cells,
        names,
        (("val_acc", "validation", PALETTE[4]), ("test_acc", "test", PALETTE[0])),
    )
    data = {
        f"{TITLES.get(c['dataset'], c['dataset'])}, {TITLES.get(c['model'], c['model'])}"
        for c in cells
        if c["dataset"]
    }
    left.set_title("; ".join(sorted(data)), fontsize=SIZE, loc="left")
    plain(right)
    right.grid(axis="x", visible=False)
    counts = [c["prompt_parameters"] or 0 for c in cells]
    right.bar(range(len(cells)), counts, 0.6, color=PALETTE[2])
    for i, c in enumerate(cells):
        if c["prompt_parameters"] is not None:
            text = f"{counts[i]:,}\n({c['prompt_percent']:.4f} %)"
            right.text(i, counts[i], text, ha="center", va="bottom", size=SIZE - 2, color=INK)
    right.set_ylim(0, 1.25 * max(*counts, 1))
    right.set_xticks(range(len(cells)), names)
    right.set_ylabel("prompt parameters", fontsize=SIZE)
    right.set_title("Parameter overhead (of the backbone)", fontsize=SIZE, loc="left")
    return figure


def backbones(cells: Sequence[dict[str, Any]]) -> "Figure":
    """Draw `test_acc` (%) by `dataset`, `model` and `use_prompt`."""
    datasets = list(dict.fromkeys(c["dataset"] for c in cells if c["dataset"]))
    models = list(dict.fromkeys(c["model"] for c in cells if c["model"]))
    figure = figure_of(1.2 + 3.2 * len(datasets), 3.2)
    grid = figure.subplots(1, len(datasets), squeeze=False)[0]
    for axes, dataset in zip(grid, datasets, strict=True):
        groups = []
        for model in models:
            mine = [c for c in cells if (c["dataset"], c["model"]) == (dataset, model)]
            group = {}
            for c in mine:
                kind = "prompted" if c["use_prompt"] else "baseline"
                group |= {kind: c["test_acc"], f"{kind}_std": c["test_acc_std"]}
            groups.append(group)
        names = [TITLES.get(m, m) for m in models]
        bars(
            axes,
            groups,
            names,
            (("baseline", "Baseline", PALETTE[0]), ("prompted", "With MS-VP", PALETTE[1])),
        )
        axes.set_title(TITLES.get(dataset, dataset), fontsize=SIZE + 1)
        axes.set_ylabel("test accuracy (%)" if axes is grid[0] else "", fontsize=SIZE)
    return figure


def bars(
    axes: "Axes",
    groups: Sequence[dict[str, Any]],
    names: Sequence[str],
    series: Sequence[tuple[str, str, str]],
) -> None:
    """Draw a group of bars for each of `groups`, called `names`.

    Args:
        groups: mappings with a value (%) and its error, `<key>_std` (None of one seed), for each
            key of the series; without a value there is no bar.
        series: key, label and colour of each bar of a group.
    """
    plain(axes)
    axes.grid(axis="x", visible=False)
    width, highest = 0.8 / len(series), 1.0
    for k, (key, label, colour) in enumerate(series):
        shown = [
            (i, g[key], g[f"{key}_std"] or 0.0)
            for i, g in enumerate(groups)
            if g.get(key) is not None
        ]
        if not shown:
            continue
        at, values, stds = (np.array(x, float) for x in zip(*shown, strict=True))
        at = at + (k - (len(series) - 1) / 2) * width
        errors = {"elinewidth": 1.2, "ecolor": INK}
        axes.bar(
            at,
            values,
            0.92 * width,
            yerr=stds if stds.any() else None,
            capsize=3,
            color=colour,
            label=label,
            error_kw=errors,
        )
        for x, value, std in zip(at, values, stds, strict=True):
            axes.annotate(
                f"{value:.1f}%",
                (x, value + std),
                (0, 2),
                textcoords="offset points",
                ha="center",
                size=SIZE - 2,
                color=INK,
            )
        highest = max(highest, float((values + stds).max()))
    if not axes.containers:
        axes.text(0.5, 0.5, "No data", transform=axes.transAxes, ha="center", color=GREY, size=SIZE)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0, min(108.0, 1.15 * highest))
    axes.set_yticks([t for t in axes.get_yticks() if t <= 100])
    axes.set_ylabel("accuracy (%)", fontsize=SIZE)
    if axes.containers:
        axes.legend(
            fontsize=SIZE - 1,
            frameon=False,
            loc="lower center",
            bbox_to_anchor=(0.5, -0.27),
            ncols=2,
        )
