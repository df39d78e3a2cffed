"""Which images a model gets wrong: the surest wrong answers, the least sure, classes taken for
each other.

`vpjax.report.plots.mistakes` draws them; all functions return positions in the split.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from vpjax.train.evaluate import Predictions, SeveralPredictions


class Pair(NamedTuple):
    """Two classes that are taken for each other.

    Attributes:
        first: a class, the one that is more often taken for the other.
        second: the other class.
        there: images of the first that were taken for the second.
        back: images of the second that were taken for the first.
        images: all of them, the surest first.
    """

    first: int
    second: int
    there: int
    back: int
    images: Int[np.ndarray, " n"]


def worst(predictions: Predictions, count: int) -> Int[np.ndarray, " n"]:
    """Return the wrong predictions of the highest probability, the highest first.

    Args:
        predictions: of a split.
        count: how many at most.
    """
    wrong = np.flatnonzero(predictions.labels != predictions.predictions)
    return wrong[np.argsort(-predictions.shares[wrong, 0], kind="stable")][:count]


def least_sure(predictions: Predictions, count: int) -> Int[np.ndarray, " n"]:
    """Return the predictions whose two best classes are the closest, right or wrong.

    Args:
        predictions: of a split.
        count: how many at most.
    """
    return np.argsort(predictions.margins, kind="stable")[:count]


def confused(predictions: Predictions, count: int) -> list[Pair]:
    """Return the pairs of classes that are taken for each other most often.

    Args:
        predictions: of a split.
        count: how many at most.
    """
    wrong = worst(predictions, len(predictions.labels))
    true, said = predictions.labels[wrong], predictions.predictions[wrong]
    pairs = np.stack([np.minimum(true, said), np.maximum(true, said)], 1)
    found, which, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    out = []
    for i in np.argsort(-counts, kind="stable")[:count]:
        inside = which.reshape(-1) == i
        low, high = (int(c) for c in found[i])
        there = int((true[inside] == low).sum())
        back = int(counts[i]) - there
        ends = (low, high, there, back) if there >= back else (high, low, back, there)
        out.append(Pair(*ends, wrong[inside]))
    return out


class Said(NamedTuple):
    """An image of several classes, one of its classes or not, and its probability."""

    image: int
    label: int
    share: float


def false_alarms(predictions: SeveralPredictions, count: int) -> list[Said]:
    """Return the classes of the highest probability that their image does not have.

    Args:
        predictions: of a split.
        count: how many at most, one of an image.
    """
    return _extreme(np.where(predictions.labels > 0, -1.0, predictions.probabilities), count)


def missed(predictions: SeveralPredictions, count: int) -> list[Said]:
    """Return the classes of the lowest probability that their image has.

    Args:
        predictions: of a split.
        count: how many at most, one of an image.
    """
    found = _extreme(np.where(predictions.labels > 0, 1.0 - predictions.probabilities, -1.0), count)
    return [said._replace(share=1.0 - said.share) for said in found]


def _extreme(values, count):
    label = values.argmax(1)
    best = values.max(1)
    order = np.argsort(-best, kind="stable")[:count]
    return [Said(int(i), int(label[i]), float(best[i])) for i in order if best[i] >= 0]
