"""Calibration: bins and errors by hand, temperatures by brute force."""

import jax.numpy as jnp
import numpy as np
import pytest

from vpjax.train import calibration
from vpjax.train.metrics import wilson


def drawn(scale, n=400, classes=7, seed=0):
    """Logits that are `scale` times too large for their labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 2
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(classes, p=p) for p in shares])
    return (logits * scale).astype(np.float32), labels


def nll(logits, labels, temperature):
    z = logits.astype(np.float64) / temperature
    z -= z.max(1, keepdims=True)
    return (np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]).mean()


def sums(logits, labels, size=64):
    """Of batches, the last one with padding that would show."""
    out = []
    for i in range(0, len(labels), size):
        part, true = logits[i : i + size], labels[i : i + size]
        short = size - len(true)
        part = np.concatenate([part, np.full((short, part.shape[1]), 9.0)])
        true, mask = np.concatenate([true, np.zeros(short, int)]), np.arange(size) < len(true)
        out.append(calibration.sums(jnp.asarray(part), jnp.asarray(true), jnp.asarray(mask)))
    return out


@pytest.mark.parametrize("scale", [0.25, 1.0, 6.0, 30.0])
def test_the_temperature_is_that_of_the_least_likelihood(scale):
    logits, labels = drawn(scale)
    found = calibration.find_temperature(sums(logits, labels), len(labels))
    grid = np.geomspace(scale / 2, scale * 2, 801)
    best = grid[np.argmin([nll(logits, labels, t) for t in grid])]
    assert found.value == pytest.approx(best, rel=4e-3) and found.why == ""
    assert found.nll == pytest.approx(nll(logits, labels, 1.0), rel=1e-4)
    assert found.nll_tempered == pytest.approx(nll(logits, labels, found.value), rel=1e-4)


def test_where_there_is_no_temperature():
    logits = 8 * np.eye(5, dtype=np.float32)
    found = calibration.find_temperature(sums(logits, np.arange(5)), 5)
    assert found.value is None and found.why == "every image is right"
    found = calibration.find_temperature(sums(-logits, np.arange(5)), 5)
    assert found.value is None and "say nothing of the classes" in found.why


def test_confidence_at_a_temperature():
    logits, labels = drawn(3.0, n=6)
    got = calibration.tempered(3.0)(logits, labels, np.array([1, 1, 1, 1, 1, 0], bool))
    shares = np.exp(logits / 3) / np.exp(logits / 3).sum(1, keepdims=True)
    np.testing.assert_allclose(got[:5], shares.max(1)[:5], rtol=1e-5)
    assert got[5] == -1


def test_bins_by_hand():
    confidence = np.array([0.5, 0.55, 0.6, 1.0, 0.2, 0.0])
    right = np.array([True, False, True, True, False, False])
    bins = calibration.reliability(confidence, right, bins=5)
    # 0.6 belongs to the bin below it, 0 to the first.
    assert [b.images for b in bins] == [2, 0, 3, 0, 1]
    assert bins[2].confidence == pytest.approx(0.55) and bins[2].accuracy == pytest.approx(2 / 3)
    expected = (2 * 0.1 + 3 * abs(0.55 - 2 / 3) + 0) / 6
    assert calibration.expected_error(bins) == pytest.approx(expected)
    assert len(calibration.reliability(confidence, right)) == 15


def test_a_model_that_is_as_sure_as_it_is_right_has_no_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 200_000)
    bins = calibration.reliability(confidence, rng.uniform(size=200_000) < confidence)
    assert calibration.expected_error(bins) < 0.005


def test_wilson_intervals():
    low, high = wilson(np.array([0, 5, 10, 0]), np.array([10, 10, 10, 0]))
    np.testing.assert_allclose(low, [0, 0.23659, 0.72247, np.nan], atol=1e-5)
    np.testing.assert_allclose(high, [0.27753, 0.76341, 1, np.nan], atol=1e-5)
