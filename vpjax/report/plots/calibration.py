"""calibration.png: whether of the images that a run is 80 % sure of, 80 % are right.

Above: accuracy by confidence, in 15 bins of equal width; on the diagonal it is what it should be.
Bars are 95 % intervals (Wilson). Below: how many images each bin has. With a temperature that was
found on val both are drawn, without it and with it.
"""

from typing import TYPE_CHECKING

import numpy as np

from vpjax.report.plots.style import GREY, PALETTE, SIZE, figure_of, plain
from vpjax.report.plots.subject import Answered, Subject
from vpjax.train.calibration import BINS, Bin, expected_error, reliability
from vpjax.train.metrics import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def calibration(subject: Subject | Answered) -> "Figure":
    """Draw the reliability curve of the test split, and how many images each bin has."""
    predictions = subject.predictions
    right = predictions.labels == predictions.predictions
    kinds = {"as trained": reliability(predictions.shares[:, 0], right)}
    if predictions.tempered is not None:
        name = f"temperature {predictions.temperature:.2f}"
        kinds[name] = reliability(predictions.tempered, right)
    figure = figure_of(4.4, 4.9)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
    for axes in (above, below):
        plain(axes)
    above.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle=":")
    for i, (name, bins) in enumerate(kinds.items()):
        shift = (i - (len(kinds) - 1) / 2) * 0.9  # so that both are seen where they agree
        _curve(above, bins, f"{name}: ECE {100 * expected_error(bins):.1f} %", i, shift)
        _counts(below, bins, i, len(kinds))
    above.set_ylabel("accuracy (%)", fontsize=SIZE)
    above.set_xlim(0, 100)
    above.set_ylim(-2, 102)
    above.legend(frameon=False, fontsize=SIZE - 1, loc="upper left")
    split = subject.source.name
    above.set_title(f"{split}, {len(right):,} images", fontsize=SIZE, loc="left")
    below.set_ylabel("images", fontsize=SIZE)
    below.set_xlabel(f"confidence (%), {BINS} bins", fontsize=SIZE)
    return figure


def _curve(axes: "Axes", bins: tuple[Bin, ...], label: str, place: int, shift: float) -> None:
    """Draw the bins that have images."""
    full = [b for b in bins if b.images]
    x = 100 * np.array([b.confidence for b in full])
    y = 100 * np.array([b.accuracy for b in full])
    images = np.array([b.images for b in full])
    low, high = wilson(np.round(y / 100 * images), images)
    whiskers = np.clip([y - 100 * low, 100 * high - y], 0, None)
    kind = {"color": PALETTE[place], "marker": "os"[place], "markersize": 3.5, "capsize": 1.8}
    axes.errorbar(x + shift, y, whiskers, label=label, linewidth=1.2, elinewidth=0.8, **kind)


def _counts(axes: "Axes", bins: tuple[Bin, ...], place: int, kinds: int) -> None:
    width = 100 / BINS * 0.86 / kinds
    left = np.array([100 * b.low for b in bins]) + 100 / BINS * 0.07 + place * width
    counts = [b.images for b in bins]
    axes.bar(left, counts, width, align="edge", color=PALETTE[place])
