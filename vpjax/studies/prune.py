"""Which prompts and pieces of E2VPT are pruned: from the gradients of its masks to fixed masks.

    importance    mean over batches of d loss / d mask: signed, the lowest go first
    counts        how many are pruned, one candidate a percentage
    masks         1 and 0 of each candidate, tokens among all, pieces within each prompt

For each pair of candidates a new model is trained, with `pruned_tokens` and `pruned_pieces` of
`vpjax.methods.e2vpt`, from prompts drawn anew: rewinding restores no saved values. Han et al. 2023,
arXiv 2307.13770.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

PERCENTS = (10, 20, 30, 40, 50, 60, 70, 80, 90)


def importance(gradients: Float[np.ndarray, " batches *n"]) -> Float[np.ndarray, "*n"]:
    """Return the importance of each token or piece: the signed mean of its mask's gradients."""
    return np.asarray(gradients, np.float64).mean(0)


def counts(size: int, minimum: int, percents: Sequence[int] = PERCENTS) -> list[int]:
    """Return how many of `size` are pruned, for each percentage; the list ends at the limit.

    Args:
        size: prompts of a layer, or pieces of a prompt.
        minimum: how many stay.
        percents: ascending.
    """
    found, most = [], max(size - minimum, 0)
    for percent in percents:
        count = size * percent // 100
        found.append(min(count, most))
        if count > most:
            break
    return found


def masks(
    importance: Float[np.ndarray, "*n size"], pruned: Sequence[int]
) -> Int[np.ndarray, "candidates *n size"]:
    """Return the mask of each candidate, 0 where pruned; ties are pruned in order.

    Args:
        importance: of tokens, or of the pieces of each prompt.
        pruned: how many of the last axis are, a number a candidate.
    """
    ranks = importance.argsort(axis=-1, kind="stable").argsort(axis=-1, kind="stable")
    return np.stack([(ranks >= count).astype(int) for count in pruned])
