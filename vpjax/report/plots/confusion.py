"""The confusion matrix, and the accuracy of each class.

confusion.png    rows: the true class, columns: the predicted class, as shares of the row
per_class.png    accuracy of each class, with its 95 % interval (Wilson) and its number of images
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from vpjax.report.plots.style import GREY, INK, PALETTE, SIZE, figure_of, plain, shortened
from vpjax.report.plots.subject import Answered, Subject
from vpjax.runs.split_files import class_accuracy
from vpjax.train import metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW = 20  # classes whose cells have room for a number
SOME = 60  # classes whose names have room
ENDS = 15  # best and worst classes that are shown where there are more


def shares(table: Int[np.ndarray, "C C"]) -> Float[np.ndarray, "C C"]:
    """Return each row divided by its sum; a class without images stays at zeros."""
    return table / (table.sum(1, keepdims=True) + 1e-8)


def confusion(subject: Subject | Answered) -> "Figure":
    """Draw the confusion matrix of the test split."""
    table = metrics.confusion(*subject.tested, len(subject.classes))
    classes, values = len(table), shares(table)
    edge = np.clip(0.42 * classes, 2.6, 8.0) if classes <= SOME else 7.0
    figure = figure_of(edge + 1.8, edge + 1.1)
    axes = figure.subplots()
    shown = axes.imshow(values, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlabel("Predicted Label", fontsize=SIZE)
    axes.set_ylabel("True Label", fontsize=SIZE)
    if classes <= SOME:
        names = [shortened(c) for c in subject.classes]
        upright = max(map(len, names)) <= 2
        axes.set_xticks(range(classes), names, rotation=0 if upright else 90)
        axes.set_yticks(range(classes), names)
    axes.tick_params(labelsize=SIZE - 1 if classes <= FEW else 5.5)
    if classes <= FEW:
        for (row, column), value in np.ndenumerate(values):
            ink = "white" if value > 0.5 else INK
            text = f"{value:.2f}"
            axes.text(column, row, text, ha="center", va="center", color=ink, size=SIZE - 2.5)
    bar = figure.colorbar(shown, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("share of the true class", fontsize=SIZE - 1)
    bar.ax.tick_params(labelsize=SIZE - 1)
    right = 100 * np.diag(table).sum() / max(table.sum(), 1)
    axes.set_title(f"{right:.2f} % of {table.sum():,} images", fontsize=SIZE, loc="left")
    return figure


def per_class(subject: Subject | Answered) -> "Figure":
    """Draw the accuracy of each class; of many classes the best and the worst."""
    found = class_accuracy(subject.predictions, len(subject.classes))
    values, images = found["accuracy"], found["images"]
    order = [i for i in np.argsort(-values, kind="stable") if np.isfinite(values[i])]
    cut = len(order) > SOME
    chosen = order[:ENDS] + order[-ENDS:] if cut else order
    figure = figure_of(5.6, 0.95 + 0.19 * (len(chosen) + cut))
    axes = figure.subplots()
    plain(axes)
    axes.grid(axis="y", visible=False)
    places = np.arange(len(chosen)) + np.where(np.arange(len(chosen)) >= ENDS, 1.0, 0.0) * cut
    ends = [values - found["accuracy_low"], found["accuracy_high"] - values]
    whiskers = np.clip([end[chosen] for end in ends], 0, None)
    axes.barh(
        *(places, values[chosen]),
        **{"color": PALETTE[0], "height": 0.72, "xerr": whiskers},
        error_kw={"ecolor": INK, "elinewidth": 0.9, "capsize": 1.8},
    )
    for place, i in zip(places, chosen, strict=True):
        text = f"{values[i]:.1f} % of {images[i]:,}"
        axes.text(102, place, text, va="center", color=INK, size=SIZE - 1.5)
    if cut:
        left_out = f"... {len(order) - len(chosen)} classes between ..."
        axes.text(1, ENDS, left_out, va="center", color=GREY, size=SIZE - 1.5)
    axes.set_yticks(places, [shortened(subject.classes[i]) for i in chosen])
    axes.set_ylim(places[-1] + 0.7, -0.7)
    mean = float(np.mean(values[order]))
    axes.axvline(mean, color=PALETTE[1], linewidth=1.2, zorder=0.5)
    axes.set_xlim(0, 101)
    axes.set_xlabel("accuracy of the class (%); lines: 95 % intervals", fontsize=SIZE)
    axes.set_title(f"mean over classes {mean:.1f} %", fontsize=SIZE, loc="left", color=PALETTE[1])
    return figure
