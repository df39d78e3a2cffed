"""What is minimised, of logits and labels: one number an image.

softmax    cross entropy of one class an image
sigmoid    binary cross entropy of every class, summed: for several classes an image

`smoothing` has_attention the one class with all of them, alike: (1 - s) of it, s / C of every one.

Class weights multiply an image's loss (softmax) or a class's term (sigmoid). The mean over a batch
divides by its images, not by their weights: the rule of VPT's code (arXiv 2203.12119), which means
to count classes, though, and counts none: there every weight comes out as 1.
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
    """Cross entropy; labels are B."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if smoothing:
        loss = (1 - smoothing) * loss - smoothing * jax.nn.log_softmax(logits).mean(-1)
    return loss if weights is None else loss * jnp.asarray(weights)[labels]


def sigmoid(
    logits: Float[Array, "B C"],
    labels: Array,
    weights: Float[Array | np.ndarray, " C"] | None = None,
) -> Float[Array, " B"]:
    """Binary cross entropy summed over classes; labels are B, or B C of zeros and ones."""
    targets = jax.nn.one_hot(labels, logits.shape[-1]) if labels.ndim == 1 else labels
    terms = optax.sigmoid_binary_cross_entropy(logits, targets.astype(logits.dtype))
    return (terms if weights is None else terms * weights).sum(-1)


LOSSES = {"softmax": softmax, "sigmoid": sigmoid}


def criterion(
    name: str, weights: Float[np.ndarray, " C"] | None = None, smoothing: float = 0.0
) -> Callable:
    """Return the loss of that name, (logits, labels) -> B, with class weights and smoothing bound.

    Raises: UserError if there is none, or smoothing does not suit it.
    """
    if name not in LOSSES:
        raise unknown("train.loss", name, LOSSES)
    if not 0 <= smoothing < 1:
        raise UserError(f"train.label_smoothing is {smoothing}; it must be in [0, 1)")
    if not smoothing:
        return functools.partial(LOSSES[name], weights=weights)
    if name != "softmax":
        raise UserError(
            f"train.label_smoothing is {smoothing}, which is for train.loss='softmax'; here it is "
            f"{name!r}. Leave it at 0."
        )
    return functools.partial(softmax, weights=weights, smoothing=smoothing)


def class_weights(counts: np.ndarray, kind: str) -> Float[np.ndarray, " C"] | None:
    """Return count^-1 ("inv") or count^-0.5 ("inv_sqrt") of every class, scaled to sum to C.

    `counts` are the images of each class. A class without images weighs 0. "none" gives None.
    Raises: UserError for another kind.
    """
    if kind not in CLASS_WEIGHTS:
        raise unknown("train.class_weights", kind, CLASS_WEIGHTS)
    if kind == "none":
        return None
    counts = np.asarray(counts, np.float64)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** CLASS_WEIGHTS[kind], 0.0)
    return (weights * len(counts) / weights.sum()).astype(np.float32)
