"""Confusion matrix and per-class accuracy: numbers, labels, pixels."""

import dataclasses
import types

import numpy as np
import pytest

from tests.report.plots.subjects import subject
from vpjax.report.plots import confusion
from vpjax.runs.evaluate import evaluate_metrics
from vpjax.train import metrics


def predictions(true, predicted, names):
    """What the figures need of a run."""
    found = types.SimpleNamespace(labels=np.array(true), predictions=np.array(predicted))
    tested = found.labels, found.predictions
    return types.SimpleNamespace(tested=tested, predictions=found, classes=names)


SMALL = predictions(
    [0, 0, 0, 1, 1, 3], [0, 0, 1, 1, 0, 3], ("cat", "dog", "owl", "a very long name of it")
)


def test_rows_are_shares_of_the_true_class():
    table = metrics.confusion(*SMALL.tested, 4)
    np.testing.assert_allclose(
        confusion.shares(table),
        [[2 / 3, 1 / 3, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]],
        atol=1e-7,
    )
    found = confusion.class_accuracy(SMALL.predictions, 4)
    np.testing.assert_allclose(found["accuracy"], [200 / 3, 50, np.nan, 100])


def test_the_matrix_has_names_values_and_colours():
    figure = confusion.confusion(SMALL)
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted Label", "True Label")
    names = [t.get_text() for t in axes.get_yticklabels()]
    assert names[:2] == ["cat", "dog"] and names[3].endswith("…") and len(names[3]) == 18
    assert [t.get_text() for t in axes.texts[:4]] == ["0.67", "0.33", "0.00", "0.00"]
    assert axes.get_title("left") == "66.67 % of 6 images"
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)

    def colour(row, column):
        x, y = axes.transData.transform((column - 0.3, row - 0.3))
        return image[image.shape[0] - int(y), int(x)]

    assert colour(3, 3).sum() < 250  # the darkest blue
    assert colour(2, 2).sum() > 700  # nearly white: a class without images
    assert colour(0, 0).sum() < colour(0, 1).sum()


def test_many_classes_lose_numbers_then_names():
    rng = np.random.default_rng(0)
    for classes, texts, ticks in ((30, 0, 30), (100, 0, None)):
        true = rng.integers(0, classes, 500)
        names = tuple(f"class {i}" for i in range(classes))
        axes = confusion.confusion(predictions(true, true, names)).axes[0]
        assert len(axes.texts) == texts
        if ticks:
            assert len(axes.get_xticks()) == ticks
    figure = confusion.per_class(predictions(true, rng.integers(0, 100, 500), names))
    axes = figure.axes[0]
    assert len(axes.patches) == 30 and "70 classes between" in axes.texts[-1].get_text()


def test_classes_in_order_of_accuracy():
    axes = confusion.per_class(SMALL).axes[0]
    assert [t.get_text()[:3] for t in axes.get_yticklabels()] == ["a v", "cat", "dog"]
    np.testing.assert_allclose([p.get_width() for p in axes.patches], [100, 200 / 3, 50])
    assert [t.get_text() for t in axes.texts] == ["100.0 % of 1", "66.7 % of 3", "50.0 % of 2"]
    (lines,) = axes.containers[0].lines[2] if axes.containers[0].lines else axes.collections[:1]
    ends = [segment[:, 0] for segment in lines.get_segments()]
    np.testing.assert_allclose(ends, [[20.65, 100], [20.77, 93.85], [9.45, 90.55]], atol=0.01)
    assert "72.2 %" in axes.get_title("left")


def test_every_image_of_the_split_counts_once():
    run = subject("vpt")
    true, predicted = run.tested
    source = run.experiment.sources["test"]
    np.testing.assert_array_equal(true, source.labels())
    accuracy = 100 * (true == predicted).mean()
    assert accuracy == pytest.approx(
        evaluate_metrics(run.experiment, run.state, "test")["accuracy"]
    )
    batch = run.experiment.inputs.loader("test").batch(3)
    assert dataclasses.replace(run, image=3 * 24 + 5).label == batch["label"][5]
