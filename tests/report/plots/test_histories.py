"""Curves of several runs: averages over steps and seeds, lines, colours."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from tests.report.plots.test_curves import pixels, shows
from vpjax.report.plots.histories import Points, histories, points

COLOURS = {"P": "#EE7733", "F": "#CC3311", "P+F": "#0077BB"}


def rows(off=0.0):
    """Ten steps an epoch, a line every four, an evaluation after each of two epochs."""
    out = [{"step": s, "accuracy": s - off, "loss": 1.0} for s in (4, 8, 10, 12, 16, 20)]
    return out + [{"step": e, "val_accuracy": 90.0 + e - off} for e in (10, 20)]


def test_training_is_averaged_between_evaluations_by_steps():
    training, evaluated = points(rows(), 10)
    np.testing.assert_allclose(training.epochs, [1, 2])
    first = (4 * 4 + 4 * 8 + 2 * 10) / 10
    second = (2 * 12 + 4 * 16 + 4 * 20) / 10
    np.testing.assert_allclose(training.accuracy, [first, second])
    np.testing.assert_allclose(evaluated.epochs, [1, 2])
    np.testing.assert_allclose(evaluated.accuracy, [100, 110])


def test_evaluations_of_several_classes_an_image_are_map():
    lines = [{"step": 10, "loss": 1.0, "val_map": 40.0}]
    training, evaluated = points(lines, 10, "map")
    assert not len(training.epochs) and evaluated.accuracy.tolist() == [40.0]
    (axes,) = histories({"a": [(training, evaluated)]}, metric="map").axes
    assert axes.get_title(loc="left") == "validation mAP (%)"


def test_without_evaluations_every_line_is_a_point():
    training, evaluated = points([r for r in rows() if "accuracy" in r], 10)
    np.testing.assert_allclose(training.epochs, [0.4, 0.8, 1.0, 1.2, 1.6, 2.0])
    assert not len(evaluated.epochs)


def test_two_panels_colours_by_label_and_what_seeds_span():
    runs = {label: [points(rows(10.0 * i + s), 10) for s in (0, 2)] for i, label in enumerate("PF")}
    runs["P+F"] = [points(rows(30.0), 10)]
    figure = histories(runs, "test", COLOURS)
    image = pixels(figure)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "training accuracy (%)",
        "test accuracy (%)",
    ]
    for axes in figure.axes:
        assert [line.get_label() for line in axes.lines] == ["P", "F", "P+F"]
        assert len(axes.collections) == 2  # bands of the two with seeds
    for colour in COLOURS.values():
        assert shows(image, colour)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["P", "F", "P+F"]
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), [99, 109])


def test_one_panel_where_only_training_was_measured():
    runs = {"a": [(Points(np.array([1.0]), np.array([50.0])), Points(np.zeros(0), np.zeros(0)))]}
    figure = histories(runs)
    assert len(figure.axes) == 1
    with pytest.raises(ValueError, match="no accuracy in the history of a, b"):
        histories({"a": [points([], 1)], "b": []})


def test_many_runs_are_told_apart():
    figure = histories({str(i): [points(rows(i), 10)] for i in range(23)})
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 23
    image, (legend,) = pixels(figure), figure.legends
    box = legend.get_window_extent()
    assert box.y0 >= 0 and box.x1 <= image.shape[1]
    assert to_rgb(figure.axes[0].lines[0].get_color()) != to_rgb("white")
