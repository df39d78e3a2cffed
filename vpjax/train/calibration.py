"""Calibration: whether of the images that a model is 80 % sure of, 80 % are right.

    reliability    accuracy and confidence in 15 bins of equal width, and the ECE
    temperature    T of softmax(logits / T) with the least negative log likelihood (NLL)

The confidence of an image is the probability of its predicted class; the expected calibration error
is the mean over images of the difference, in their bin, between mean confidence and accuracy
(Guo et al. 2017, arXiv 1706.04599). A temperature changes no prediction.

Logits of a whole split may not fit in memory, so they are not needed here: with b = 1 / T the NLL
is convex, and its sums over images at a grid of b, with their slopes, are enough to find the least.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

BINS = 15
GRID = np.geomspace(1 / 50, 50, 79)  # values of 1 / T


class Bin(NamedTuple):
    """The images whose confidence is above `low` and at most `high`."""

    low: float
    high: float
    images: int
    confidence: float  # mean, 0 to 1; 0 without images
    accuracy: float  # 0 to 1; 0 without images


def reliability(
    confidence: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], bins: int = BINS
) -> tuple[Bin, ...]:
    """Return bins of equal width.

    Args:
        confidence: probability of the predicted class of each image, 0 to 1.
        right: whether that class is the true one.
        bins: how many.
    """
    confidence = np.asarray(confidence, np.float64)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    mean = lambda values: np.bincount(place, values, minlength=bins) / np.maximum(count, 1)  # noqa: E731
    sure, share = mean(confidence), mean(np.asarray(right, np.float64))
    return tuple(
        Bin(i / bins, (i + 1) / bins, int(count[i]), float(sure[i]), float(share[i]))
        for i in range(bins)
    )


def expected_error(bins: tuple[Bin, ...]) -> float:
    """Return the expected calibration error of bins, 0 to 1."""
    images = sum(b.images for b in bins)
    return sum(b.images * abs(b.confidence - b.accuracy) for b in bins) / max(images, 1)


class Sums(NamedTuple):
    """Sums over images at each b of `GRID`: the NLL in nats, and its derivative by b."""

    nll: Float[Array | np.ndarray, " grid"]
    slope: Float[Array | np.ndarray, " grid"]


@jax.jit
def sums(logits: Float[Array, "B C"], labels: Int[Array, " B"], mask: Bool[Array, " B"]) -> Sums:
    """Return what a batch adds to the search for a temperature.

    Args:
        logits: of all classes.
        labels: the true classes.
        mask: False for padding, which does not count.
    """
    logits = logits.astype(jnp.float32)
    logits = logits - logits.max(-1, keepdims=True)  # so that b times them is exact where it counts
    own = jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]

    def at(b):
        total = jax.nn.logsumexp(b * logits, axis=-1)
        mean = (jnp.exp(b * logits - total[:, None]) * logits).sum(-1)
        return Sums((mask * (total - b * own)).sum(), (mask * (mean - own)).sum())

    return jax.lax.map(at, jnp.asarray(GRID, jnp.float32))  # one after the other: little memory


def tempered(temperature: float) -> Callable:
    """Return the function logits, labels, mask -> probability of the best class, -1 of padding.

    Args:
        temperature: that logits are divided by.
    """
    return functools.partial(_tempered, jnp.float32(temperature))


@jax.jit
def _tempered(temperature, logits, labels, mask):
    del labels
    logits = logits.astype(jnp.float32) / temperature
    return jnp.where(mask, jnp.exp(logits.max(-1) - jax.nn.logsumexp(logits, axis=-1)), -1.0)


class Temperature(NamedTuple):
    """The temperature of the least NLL.

    Attributes:
        value: None: there is none, as `why` says.
        why: the reason, such as that every image is right; "".
        nll: mean NLL without it, nats.
        nll_tempered: mean NLL with it.
    """

    value: float | None
    why: str
    nll: float
    nll_tempered: float | None


def find_temperature(batches: list[Sums], images: int) -> Temperature:
    """Return the temperature with the least NLL.

    Args:
        batches: `sums` of every batch of a split.
        images: of the split.
    """
    nll, slope = (sum(np.asarray(b[i], np.float64) for b in batches) / images for i in range(2))
    before = _between(1.0, GRID, nll, slope)
    if nll.min() < 1e-6:  # the larger b, the better
        return Temperature(None, "every image is right", before, None)
    if slope[-1] < 0:
        return Temperature(None, f"it would be below {1 / GRID[-1]:.2g}", before, None)
    if slope[0] >= 0:
        why = f"it would be above {1 / GRID[0]:.0f}: the logits say nothing of the classes"
        return Temperature(None, why, before, None)
    low, high = GRID[np.flatnonzero(slope < 0)[-1]], GRID[np.flatnonzero(slope >= 0)[0]]
    fine = np.geomspace(low, high, 2001)
    values = _between(fine, GRID, nll, slope)
    best = int(values.argmin())
    return Temperature(float(1 / fine[best]), "", before, float(values[best]))


def _between(x, grid, values, slopes):
    """Return values between those of a grid: the cubic with the same values and slopes there."""
    i = np.clip(np.searchsorted(grid, x, "right") - 1, 0, len(grid) - 2)
    width = grid[i + 1] - grid[i]
    t = (x - grid[i]) / width
    near = values[i] * (1 + 2 * t) * (1 - t) ** 2 + width * slopes[i] * t * (1 - t) ** 2
    far = values[i + 1] * t**2 * (3 - 2 * t) + width * slopes[i + 1] * t**2 * (t - 1)
    out = near + far
    return out if np.ndim(x) else float(out)
