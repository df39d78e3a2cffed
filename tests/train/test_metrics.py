"""Numbers of a whole split, against brute force; recorded ones are a case of tests/golden."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpjax.train import metrics

# Few distinct scores, so that there are ties.
SPLITS = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=n, max_size=n),
        st.lists(st.tuples(*[st.integers(0, 1)] * 3), min_size=n, max_size=n),
    )
)


def arrays(split):
    return np.array(split[0]) / 6, np.array(split[1])


def curve(scores, targets):
    """Recall and precision at every threshold, the highest first."""
    for threshold in sorted(set(scores), reverse=True):
        chosen = scores >= threshold
        yield targets[chosen].sum() / targets.sum(), targets[chosen].mean()


@settings(deadline=None)
@given(SPLITS)
def test_average_precision_and_recall(split):
    scores, targets = arrays(split)
    ap, ar = metrics.average_precision(scores, targets), metrics.mean_recall(scores, targets)
    for c in range(3):
        if not targets[:, c].any():
            assert math.isnan(ap[c]) and math.isnan(ar[c])
            continue
        recall, precision = zip(*curve(scores[:, c], targets[:, c]), strict=True)
        gains = np.diff([0, *recall])
        assert ap[c] == pytest.approx((gains * precision).sum())
        assert ar[c] == pytest.approx(np.mean([0, *recall]))


@settings(deadline=None)
@given(SPLITS)
def test_roc_auc_counts_pairs(split):
    scores, targets = arrays(split)
    areas = []
    for x, t in zip(scores.T, targets.T, strict=True):
        pairs = [(a > b) + (a == b) / 2 for a in x[t == 1] for b in x[t == 0]]
        areas.append(np.mean(pairs) if pairs else math.nan)
    assert metrics.roc_auc(scores, targets) == pytest.approx(np.mean(areas), nan_ok=True)


def f1(said, targets):
    """2 precision recall / (precision + recall), 0 where that is no number."""
    both = (said & (targets == 1)).sum()
    if not both:
        return 0.0
    precision, recall = both / said.sum(), both / targets.sum()
    return 2 * precision * recall / (precision + recall)


@settings(deadline=None)
@given(SPLITS)
def test_best_f1(split):
    scores, targets = arrays(split)
    found = metrics.best_f1(scores, targets)
    macro = {
        t: np.mean([f1(scores[:, c] >= t, targets[:, c]) for c in range(3)])
        for t in metrics.THRESHOLDS
    }
    best = max(macro.values())
    assert found["macro"] == pytest.approx(best)
    assert macro[found["threshold"]] == pytest.approx(best)
    said = scores >= found["threshold"]
    assert found["micro"] == pytest.approx(f1(said.ravel(), targets.ravel()))
    of_image = [f1(*rows) for rows in zip(said, targets, strict=True)]
    assert found["samples"] == pytest.approx(np.mean(of_image))


def test_thresholds():
    assert metrics.THRESHOLDS.tolist() == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]


def test_perfect_scores():
    targets = np.array([[1, 0], [0, 1], [1, 1]])
    assert metrics.average_precision(targets * 0.9, targets).tolist() == [1, 1]
    scores, labels = np.array([[0.9, 0.1], [0.2, 0.8]]), np.eye(2, dtype=int)
    assert metrics.roc_auc(scores, labels) == 1
    assert metrics.roc_auc(-scores, labels) == 0
    best = metrics.best_f1(targets * 0.9, targets)
    assert best == {"micro": 1, "macro": 1, "samples": 1, "threshold": 0.5}


def test_scikit_learn_agrees():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    scores, targets = rng.integers(0, 30, (60, 4)) / 30, rng.integers(0, 2, (60, 4))
    expected = sklearn.average_precision_score(targets, scores, average=None)
    np.testing.assert_allclose(metrics.average_precision(scores, targets), expected)
    expected = sklearn.roc_auc_score(targets, scores, average="macro")
    assert metrics.roc_auc(scores, targets) == pytest.approx(expected)
    best = metrics.best_f1(scores, targets)
    for average in ("micro", "macro", "samples"):
        said = scores >= best["threshold"]
        expected = sklearn.f1_score(targets, said, average=average, zero_division=0)
        assert best[average] == pytest.approx(expected)


def test_what_is_taken_for_what():
    labels, predicted = np.array([0, 0, 1, 1, 1, 3]), np.array([0, 1, 1, 1, 0, 1])
    counts = metrics.confusion(labels, predicted, 5)
    assert counts.tolist() == [[1, 1, 0, 0, 0], [1, 2, 0, 0, 0], [0] * 5, [0, 1, 0, 0, 0], [0] * 5]
    assert metrics.class_accuracy(counts) == pytest.approx([1 / 2, 2 / 3, 0, 0, 0])
    found = metrics.macro(labels, predicted, 5)  # of classes 0, 1 and 3
    assert found["recall_macro"] == pytest.approx((1 / 2 + 2 / 3) / 3)
    assert found["precision_macro"] == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert found["f1_macro"] == pytest.approx((1 / 2 + 4 / 7) / 3)
    sklearn = pytest.importorskip("sklearn.metrics")
    options = {"average": "macro", "zero_division": 0}
    assert found["f1_macro"] == pytest.approx(sklearn.f1_score(labels, predicted, **options))
