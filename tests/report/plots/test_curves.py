"""Figures are read back: their lines, their texts, and pixels of what was rendered."""

import itertools
import math

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Annotation

from vpjax.report.plots.curves import _spread, comparison, curves
from vpjax.report.plots.style import PALETTE, looks


def history(steps=200):
    rows = []
    for step in range(1, steps + 1):
        row = {"step": step, "loss": 2.0 / step, "lr": 1e-3 * (1 - step / steps)}
        if step % 50 == 0:
            row |= {"val_loss": 2.1 / step, "val_accuracy": 90 - 100 / step}
        rows.append(row)
    return rows


METHODS = [
    {"label": "Linear", "mean": 86.2, "std": 0.2, "trainable": 3_850, "percent": 0.02},
    {"label": "VPT-Shallow", "mean": 89.6, "std": 0.4, "trainable": 7_690, "percent": 0.04},
    {"label": "VPT-Deep", "mean": 93.1, "std": 0.3, "trainable": 49_930, "percent": 0.23},
    {"label": "Full", "mean": 92.2, "std": 0.9, "trainable": 21_670_000, "percent": 100.0},
]


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)


def shows(image, colour):
    """Whether at least a marker's worth of pixels has nearly this colour."""
    return (np.abs(image - 255 * np.array(to_rgb(colour))).max(-1) < 12).sum() > 20


def labels(figure):
    figure.canvas.draw()
    return [text for axes in figure.axes for text in axes.findobj(Annotation)]


def boxes(figure):
    return [label.get_window_extent() for label in labels(figure)]


def overlapping(boxes):
    # One pixel of slack: boxes are computed at the size of the fonts' whole line.
    return [(a, b) for a, b in itertools.combinations(boxes, 2) if a.padded(-1).overlaps(b)]


def test_curves_panels_lines_and_pixels():
    figure = curves(history(), "a run")
    loss, accuracy, rate = figure.axes
    assert [len(axes.lines) for axes in figure.axes] == [2, 1, 1]
    assert "loss" in loss.get_ylabel() and accuracy.get_ylabel() == "accuracy (%)"
    assert rate.get_xlabel() == "training step" and loss.get_title("left") == "a run"
    assert rate.bbox.height < loss.bbox.height / 2
    np.testing.assert_array_equal(accuracy.lines[0].get_xdata(), [50, 100, 150, 200])
    np.testing.assert_allclose(loss.lines[0].get_ydata()[:2], [2.0, 1.0])
    image = pixels(figure)
    assert all(shows(image, colour) for colour in PALETTE[:3])
    assert not shows(image, PALETTE[3])


def test_curves_labels_have_names_and_last_values_and_keep_apart():
    figure = curves(history())  # training and validation loss end at almost one place
    texts = [label.get_text() for label in labels(figure)]
    assert texts == ["training 0.0100", "validation 0.0105", "validation 89.5"]
    assert not overlapping(boxes(figure))
    width, height = figure.canvas.get_width_height()
    for box in boxes(figure):
        assert min(box.x0, box.y0) >= 0 and box.x1 <= width and box.y1 <= height


def test_curves_of_several_classes_an_image_show_map():
    figure = curves([{"step": s, "loss": 1 / s, "val_map": 10.0 * s} for s in (1, 2)])
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "mAP (%)"]
    assert [label.get_text() for label in labels(figure)][-1] == "validation 20.0"


def test_curves_with_one_point():
    figure = curves([{"step": 10, "loss": 1.2, "val_accuracy": 50.0}])
    assert len(figure.axes) == 2
    image = pixels(figure)
    assert shows(image, PALETTE[0]) and shows(image, PALETTE[1])


def test_curves_of_step_zero():
    pixels(curves([{"step": 0, "val_accuracy": 10.0, "lr": 0.0}]))


def test_curves_with_missing_and_infinite_values():
    rows = [
        {"step": 1, "loss": 1.0},
        {"step": 2},
        {"step": 3, "loss": 0.9},
        {"step": 4, "loss": None},  # as metrics files hold NaN
        {"step": 5, "loss": math.nan, "val_accuracy": None},
        {"step": 6, "loss": 0.8, "accuracy": 50.0},
    ]
    figure = curves(rows)
    [line] = figure.axes[0].lines
    np.testing.assert_array_equal(line.get_xdata(), [1, 3, 4, 5, 6])
    np.testing.assert_array_equal(line.get_ydata(), [1.0, 0.9, math.nan, math.nan, 0.8])
    assert [len(axes.lines) for axes in figure.axes] == [1, 1]
    pixels(figure)


def test_curves_of_nothing():
    with pytest.raises(ValueError, match=r"2 rows with keys grad_norm, step; expected finite"):
        curves([{"step": 1, "grad_norm": 1.0}, {"step": 2}])
    with pytest.raises(ValueError, match=r"0 rows with keys \(none\)"):
        curves([])


def test_comparison_points_bars_and_labels():
    figure = comparison(METHODS)
    [axes] = figure.axes
    assert axes.get_xscale() == "log"
    points = [container.lines[0] for container in axes.containers]
    assert [point.get_xdata()[0] for point in points] == [3_850, 7_690, 49_930, 21_670_000]
    low, high = axes.containers[3].lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((91.3, 93.1))
    assert [label.get_text() for label in labels(figure)][:2] == [
        "Linear\n86.2 ± 0.2",
        "VPT-Shallow\n89.6 ± 0.4",
    ]
    image = pixels(figure)
    drawn = looks(row["label"] for row in METHODS)
    assert len({look.colour for look in drawn.values()}) == 4
    assert all(shows(image, look.colour) for look in drawn.values())


def crowd(count):
    return [
        {"label": f"method {i}", "mean": 90 + 0.05 * i, "std": 0.3, "trainable": 50_000 + i}
        for i in range(count)
    ]


@pytest.mark.parametrize(
    "rows",
    [METHODS, crowd(2), [*METHODS, *crowd(5)], METHODS[:1]],
    ids=["four", "two close", "nine", "one"],
)
def test_comparison_labels_keep_apart_and_inside(rows):
    figure = comparison(rows)
    found = boxes(figure)
    assert len(found) == len(rows) and not overlapping(found)
    [axes] = figure.axes
    for box in found:
        assert axes.bbox.x0 <= box.x0 + 1 and box.x1 <= axes.bbox.x1 + 1
        assert axes.bbox.y0 <= box.y0 + 1 and box.y1 <= axes.bbox.y1 + 1
    markers = axes.transData.transform([(row["trainable"], row["mean"]) for row in rows])
    assert not any(box.contains(*marker) for box in found for marker in markers)


def test_comparison_axis_always_has_numbers():
    for rows in (METHODS, crowd(2), METHODS[:1]):
        figure = comparison(rows)
        [axes] = figure.axes
        figure.canvas.draw()
        low, high = axes.get_xlim()
        inside = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert len(inside) >= 2


def test_comparison_without_std_or_trainable():
    rows = [*METHODS, {"label": "Zero-shot", "mean": 87.5, "std": None, "trainable": 0}]
    figure = comparison(rows)
    assert labels(figure)[-1].get_text() == "Zero-shot 87.5"
    assert not overlapping(boxes(figure))
    pixels(comparison(rows[-1:]))


def test_comparison_of_map():
    figure = comparison([row | {"metric": "map"} for row in METHODS])
    assert figure.axes[0].get_ylabel() == "mAP (%)"


def test_comparison_errors():
    with pytest.raises(ValueError, match="no rows"):
        comparison([])
    with pytest.raises(ValueError, match="'x' has mean nan"):
        comparison([{"label": "x", "mean": math.nan, "trainable": 1}])


def test_spread():
    assert _spread([0.0, 100.0], 10.0) == [0.0, 100.0]
    assert _spread([5.0, 5.0], 10.0) == [0.0, 10.0]
    assert _spread([3.0, 1.0, 2.0], 10.0) == [12.0, -8.0, 2.0]


def test_many_methods_are_ranked_one_a_line():
    rows = [
        {"label": f"method {i}", "mean": 80 + i, "trainable": 10**i, "percent": i, "std": 0.5}
        for i in range(12)
    ]
    figure = comparison(rows)
    left, right = figure.axes
    assert [t.get_text() for t in left.get_yticklabels()] == [r["label"] for r in rows]
    texts = [t.get_text() for t in right.get_yticklabels()]
    assert texts[0] == "80.0 ± 0.5    0.0 %" and texts[-1] == "91.0 ± 0.5   11.0 %"
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in right.get_yticklabels()]
    assert max(b.x1 for b in boxes) <= figure.bbox.x1
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
