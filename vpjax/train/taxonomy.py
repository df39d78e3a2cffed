"""Accuracy by taxonomic level, and by the number of training images of a class.

    genus     correct if the predicted species is of the true one's genus; family, order likewise
    many      classes with more than 100 training images; medium 20 to 100; few less than 20
    balanced  the mean over the classes that occur of the accuracy within a class

A taxon is identified by its name and those of all levels above it, as a genus of birds and one of
plants may share a name (Morus). Accuracies are in percent.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

LEVELS = ("genus", "family", "order")  # from the lowest level up
SHOTS = {"many": (101, np.inf), "medium": (20, 100), "few": (0, 19)}  # training images, inclusive

Facts = Mapping[str, Any]
Labels = Int[np.ndarray, " n"]


def taxa(metadata: Sequence[Facts], level: str) -> tuple[Int[np.ndarray, " C"], list[str]]:
    """Return the index of every class's taxon at a level, and the names of the taxa by index.

    Args:
        metadata: of each class, {level: name}.
        level: one of `LEVELS`.

    Raises:
        KeyError: if the level of some class is not known.
    """
    above = LEVELS[LEVELS.index(level) :]
    paths = [(facts[level], *(facts.get(name, "") for name in above[1:])) for facts in metadata]
    known = {path: i for i, path in enumerate(sorted(set(paths)))}
    return np.array([known[p] for p in paths]), [path[0] for path in known]


def by_level(predictions: Labels, labels: Labels, metadata: Sequence[Facts]) -> dict[str, float]:
    """Return the accuracy at every taxonomic level that is known of all classes.

    Args:
        predictions: predicted classes.
        labels: true classes.
        metadata: of each class, {level: name}.

    Returns:
        {"genus": percent, "family": percent, "order": percent}, or some of these.
    """
    out = {}
    for level in LEVELS:
        if metadata and all(facts.get(level) for facts in metadata):
            taxon, _ = taxa(metadata, level)
            out[level] = 100 * float((taxon[predictions] == taxon[labels]).mean())
    return out


def by_shots(
    predictions: Labels, labels: Labels, train_counts: Int[np.ndarray, " C"]
) -> dict[str, float]:
    """Return the accuracy on classes with many, medium and few training images.

    Args:
        predictions: predicted classes.
        labels: true classes.
        train_counts: training images of each class.

    Returns:
        {"many": percent, "many_images": n, "many_classes": n, ...}. Classes count whether or not
        the split has images of them; a group without images has no accuracy.
    """
    out = {}
    for name in SHOTS:
        group = _in_group(train_counts, name)
        shown = group[labels]
        if shown.any():
            out[name] = 100 * float((predictions == labels)[shown].mean())
        out |= {f"{name}_images": int(shown.sum()), f"{name}_classes": int(group.sum())}
    return out


def group_sizes(train_counts: Int[np.ndarray, " C"]) -> list[int]:
    """Return how many classes are in each group of `SHOTS`."""
    return [int(_in_group(train_counts, name).sum()) for name in SHOTS]


def _in_group(train_counts, name):
    low, high = SHOTS[name]
    return (train_counts >= low) & (train_counts <= high)


def balanced(predictions: Labels, labels: Labels) -> float:
    """Return the mean over the classes that occur of the accuracy within a class, percent."""
    total = np.bincount(labels)
    right = np.bincount(labels, weights=predictions == labels)
    return 100 * float((right[total > 0] / total[total > 0]).mean())


def margin(scores: Float[np.ndarray, "n C"], scale: float = 1.0) -> float:
    """Return the mean of the largest minus the second largest softmax probability, 0 to 1.

    It depends on the scale, so always name it with the margin: CLIP's zero-shot logits are 100
    cosines, those of MoP 714. The margin of raw cosines is about 0 and says nothing.

    Args:
        scores: of all classes.
        scale: what they are multiplied with before the softmax.
    """
    scores = np.asarray(scores, np.float64) * scale
    # A partition, so that the scores of 10,000 classes need no sorting.
    top = np.partition(scores, -2, axis=1)[:, -2:]
    total = np.exp(scores - top[:, 1:]).sum(1)
    return float(((1 - np.exp(top[:, 0] - top[:, 1])) / total).mean())


def evaluation_report(
    predictions: Labels,
    labels: Labels,
    metadata: Sequence[Facts],
    train_counts: Int[np.ndarray, " C"] | None = None,
) -> dict[str, float]:
    """Return all metrics of this file for predicted classes.

    Args:
        predictions: predicted classes.
        labels: true classes.
        metadata: of each class, {level: name}.
        train_counts: training images of each class; None: no metrics by number of images.

    Raises:
        ValueError: for arrays of unequal length, or empty ones.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or not len(labels):
        raise ValueError(
            f"predictions {predictions.shape} and labels {labels.shape}; expected two arrays of "
            "the same length, not empty"
        )
    out = {
        "accuracy": 100 * float((predictions == labels).mean()),
        "balanced": balanced(predictions, labels),
    }
    out |= by_level(predictions, labels, metadata)
    if train_counts is not None:
        out |= by_shots(predictions, labels, np.asarray(train_counts))
    return out | {"count": len(labels)}
