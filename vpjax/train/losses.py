"""Losses of logits and labels, one number an image.

softmax    cross entropy, for one class an image
sigmoid    binary cross entropy summed over classes, for several classes an image

Label smoothing s mixes the target with all classes alike: 1 - s for its class, s / C for each.

Class weights multiply an image's loss (softmax) or a class's term (sigmoid). The mean over a batch
divides by its images, not by their weights, as in VPT's code (arXiv 2203.12119); there every weight
comes out as 1, though, because of a mistake in counting classes.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from vpjax.core.errors import UserError, unknown

CLASS_WEIGHTS = {"none": 0.0, "inv": -1.0, "inv_sqrt": -0.5}  # the power of a class's count


def softmax(
    logits: Float[Array, "B C"],
    labels: Array,
    weights: Float[Array | np.ndarray, " C"] | None = None,
    smoothing: float = 0.0,
) -> Float[Array, " B"]:
    """Return the cross entropy of each image.

    Args:
        logits: of all classes.
        labels: class of each image, B.
        weights: of the classes; None: all 1.
        smoothing: label smoothing, 0 to 1.
    """
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if smoothing:
        loss = (1 - smoothing) * loss - smoothing * jax.nn.log_softmax(logits).mean(-1)
    return loss if weights is None else loss * jnp.asarray(weights)[labels]


def sigmoid(
    logits: Float[Array, "B C"],
    labels: Array,
    weights: Float[Array | np.ndarray, " C"] | None = None,
) -> Float[Array, " B"]:
    """Return the binary cross entropy of each image, summed over classes.

    Args:
        logits: of all classes.
        labels: class of each image (B), or zeros and ones (B C).
        weights: of the classes; None: all 1.
    """
    targets = jax.nn.one_hot(labels, logits.shape[-1]) if labels.ndim == 1 else labels
    terms = optax.sigmoid_binary_cross_entropy(logits, targets.astype(logits.dtype))
    return (terms if weights is None else terms * weights).sum(-1)


LOSSES = {"softmax": softmax, "sigmoid": sigmoid}


def criterion(
    name: str, weights: Float[np.ndarray, " C"] | None = None, smoothing: float = 0.0
) -> Callable:
    """Return a loss by name, (logits, labels) -> B, with class weights and smoothing bound.

    Args:
        name: a name in `LOSSES`.
        weights: of the classes; None: all 1.
        smoothing: label smoothing, 0 to 1; for "softmax" only.

    Raises:
        UserError: if there is no such loss, or `smoothing` does not suit it.
    """
    if name not in LOSSES:
        raise unknown("train.loss", name, LOSSES)
    if not 0 <= smoothing < 1:
        raise UserError(f"train.label_smoothing is {smoothing}; it must be in [0, 1)")
    if not smoothing:
        return functools.partial(LOSSES[name], weights=weights)
    if name != "softmax":
        raise UserError(
            f"train.label_smoothing is {smoothing}, but train.loss is {name!r}, and only 'softmax' "
            "has label smoothing. Set it to 0."
        )
    return functools.partial(softmax, weights=weights, smoothing=smoothing)


def class_weights(counts: np.ndarray, kind: str) -> Float[np.ndarray, " C"] | None:
    """Return weights that balance the classes, scaled to sum to C.

    Args:
        counts: C, training images of each class; a class without images gets the weight 0.
        kind: "inv": 1 / count; "inv_sqrt": 1 / sqrt(count); "none": None is returned.

    Raises:
        UserError: for another kind.
    """
    if kind not in CLASS_WEIGHTS:
        raise unknown("train.class_weights", kind, CLASS_WEIGHTS)
    if kind == "none":
        return None
    counts = np.asarray(counts, np.float64)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** CLASS_WEIGHTS[kind], 0.0)
    return (weights * len(counts) / weights.sum()).astype(np.float32)
