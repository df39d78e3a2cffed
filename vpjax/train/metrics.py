"""Metrics that need the scores of a whole split, computed on the host; between 0 and 1.

    roc_auc            share of (positive, negative) pairs that are in order, averaged over classes
    average_precision  sum over thresholds of (gain in recall) x precision, for each class
    mean_recall        recall averaged over all thresholds, for each class
    best_f1            F1 at the threshold, the same for all classes, where macro F1 is highest
    confusion          how many images of each class were predicted as each class
    macro              precision, recall and F1, averaged over classes
    wilson             in which interval a share lies, by so many images

They follow the definitions of scikit-learn, which VPT's code (arXiv 2203.12119) uses.
"""

import numpy as np
from jaxtyping import Float, Int, Num

Scores = Num[np.ndarray, "n C"]  # higher: more probably of that class
Targets = Int[np.ndarray, "n C"]  # zeros and ones
Counts = Int[np.ndarray, "C C"]  # images by true class (rows) and predicted class

THRESHOLDS = np.arange(50, 100, 5) / 100


def roc_auc(scores: Scores, targets: Targets) -> float:
    """Return the area under the ROC curve, averaged over classes; ties count half.

    It is NaN if a class has no positive or no negative.
    """
    areas = []
    for column, target in zip(scores.T, targets.T, strict=True):
        positives, negatives = column[target == 1], np.sort(column[target == 0])
        if not len(positives) or not len(negatives):
            return float("nan")
        below = np.searchsorted(negatives, positives, "left")
        not_above = np.searchsorted(negatives, positives, "right")
        areas.append((below + not_above).mean() / (2 * len(negatives)))
    return float(np.mean(areas))


def average_precision(scores: Scores, targets: Targets) -> Float[np.ndarray, " C"]:
    """Return each class's average precision; NaN where it has no positive."""
    return np.array([_average_precision(s, t) for s, t in zip(scores.T, targets.T, strict=True)])


def mean_recall(scores: Scores, targets: Targets) -> Float[np.ndarray, " C"]:
    """Return each class's recall, averaged over the points of its precision-recall curve.

    The end of the curve at recall 0 is one of them. NaN where a class has no positive.
    """
    out = []
    for column, target in zip(scores.T, targets.T, strict=True):
        recall, _ = _curve(column, target)
        out.append(recall.sum() / (len(recall) + 1))
    return np.array(out)


def _average_precision(scores, targets):
    recall, precision = _curve(scores, targets)
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def _curve(scores, targets):
    """Return recall and precision at every distinct score, the highest first."""
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(targets[order])
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of equal scores
    positives = found[-1] if found[-1] else np.nan
    return found[last] / positives, found[last] / (last + 1)


def best_f1(probabilities: Scores, targets: Targets) -> dict[str, float]:
    """Return F1 scores at the threshold (0.5, 0.55 ... 0.95) at which macro F1 is highest.

    Returns:
        "micro", of all decisions together; "macro", the mean over classes; "samples", the mean
        over images; "threshold". F1 is 0 where there are no positives and none was predicted.
    """
    found = [_f1(probabilities >= t, targets) | {"threshold": float(t)} for t in THRESHOLDS]
    return max(found, key=lambda f: f["macro"])  # the lowest of equally good ones


def _f1(decided, targets):
    def ratio(axis):
        both = (decided & (targets == 1)).sum(axis)
        any_ = decided.sum(axis) + targets.sum(axis)
        return float(np.mean(2 * both / np.maximum(any_, 1)))

    return {"micro": ratio(None), "macro": ratio(0), "samples": ratio(1)}


def confusion(
    labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], num_classes: int
) -> Counts:
    """Return the confusion matrix: images by true class (rows) and predicted class (columns).

    Args:
        labels: true classes.
        predicted: predicted classes.
        num_classes: C.
    """
    pairs = np.asarray(labels, np.int64) * num_classes + predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def macro(
    labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], num_classes: int
) -> dict[str, float]:
    """Return "precision_macro", "recall_macro" and "f1_macro", unweighted means over classes.

    Only classes that occur, true or predicted, are averaged; 0 / 0 counts as 0.

    Args:
        labels: true classes.
        predicted: predicted classes.
        num_classes: C.
    """
    count = lambda classes: np.bincount(classes, minlength=num_classes)  # noqa: E731
    right, shown, said = count(labels[labels == predicted]), count(labels), count(predicted)
    occurs = (shown + said) > 0
    mean = lambda part, total: float((part / np.maximum(total, 1))[occurs].mean())  # noqa: E731
    return {
        "precision_macro": mean(right, said),
        "recall_macro": mean(right, shown),
        "f1_macro": mean(2 * right, shown + said),
    }


def class_accuracy(counts: Counts) -> Float[np.ndarray, " C"]:
    """Return the accuracy of each class of a confusion matrix; 0 where it has no images."""
    return np.diag(counts) / np.maximum(counts.sum(1), 1)


def wilson(
    found: Int[np.ndarray, "..."], total: Int[np.ndarray, "..."], z: float = 1.959964
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Return both ends of Wilson's score interval of a share, 0 to 1; NaN of nothing.

    Unlike mean ± deviation it is sensible for few images, and where all or none are found.

    Args:
        found: how many.
        total: of so many.
        z: width in standard deviations; the default gives 95 %.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.asarray(found) / total
        middle = share + z**2 / (2 * total)
        half = z * np.sqrt(share * (1 - share) / total + z**2 / (4 * np.square(total, dtype=float)))
        low, high = ((middle + sign * half) / (1 + z**2 / total) for sign in (-1, 1))
    return np.clip(low, 0, 1), np.clip(high, 0, 1)
