"""Layouts of foreign arrays, turned into ours.

    linear layer    (out, in)      ->  (in, out)
    convolution     (D, C, p, p)   ->  p p C D
    heads           (D, D)         ->  (D, N, d) before attention, (N, d, D) after it

What does not fit stays as it is, so that the loader's message can compare the shapes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


def kernel(array: np.ndarray) -> np.ndarray:
    """Return a matrix (out, in) as (in, out), a convolution D C p p as p p C D."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def split(array: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the equal parts of a fused matrix (or bias) by name, along its first axis.

    An array that does not divide is returned under the first name, whole.
    """
    if len(array) % len(names):
        return {names[0]: array}
    return dict(zip(names, np.split(array, len(names)), strict=True))


def with_heads(name: str, array: np.ndarray, expected: Mapping[str, Any]) -> np.ndarray:
    """Return an array of an attention with its axis of all heads split in two, as the model has it.

    Args:
        name: ours, such as "layers/7/attn/query/kernel".
        array: in our order of axes.
        expected: the model's names with shapes.
    """
    like = expected.get(name)
    if "attn/" not in name or like is None or like.size != array.size:
        return array
    return array.reshape(like.shape)


def placeholders(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Return arrays of these shapes that take no memory, to translate shapes as arrays are."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
