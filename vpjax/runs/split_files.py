"""What is written of a split's predictions: a line for each image, and one for each class.

    predictions.csv    image, true class, predicted class, both probabilities, the five best classes
    per_class.csv      images, correct ones, accuracy with its 95 % interval, training images

Where images have several classes: the true ones and those of a probability of at least 0.5, and for
each class average precision, recall with its interval, and precision.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vpjax.core.table import write_csv, write_rows
from vpjax.train.evaluate import TOP, Predictions, SeveralPredictions
from vpjax.train.metrics import average_precision, wilson

HALF = 0.5  # probability from which on an image is said to have a class, where it may have several
BETWEEN = "; "  # of several classes in one cell
HEAD = ("example", "file", "true_label", "true", "predicted_label", "predicted", "correct")
ONE = (*HEAD, "probability", "probability_of_true", "margin")
SEVERAL = ("example", "file", "true", "predicted", "correct")

AnyPredictions = Predictions | SeveralPredictions


def write_predictions(
    path: Path, predictions: AnyPredictions, classes: Sequence[str], files: Sequence[str] | None
) -> None:
    """Write predictions.csv.

    Args:
        path: the file.
        predictions: of n images.
        classes: names of the classes.
        files: path of each image; None: they have none, and are known by their number.
    """
    if isinstance(predictions, SeveralPredictions):
        columns, rows = SEVERAL, _several(predictions, classes)
        ranks = range(1, min(TOP, len(classes)) + 1)
    else:
        columns, rows = ONE, _one(predictions, classes)
        columns += ("tempered_probability",) * (predictions.tempered is not None)
        ranks = range(2, predictions.top.shape[1] + 1)
    columns += tuple(f"{what}_{i}" for i in ranks for what in ("class", "probability"))
    named = ((i, "" if files is None else files[i], *row) for i, row in enumerate(rows))
    write_rows(path, columns, named)


def _one(p: Predictions, classes: Sequence[str]) -> Iterator[tuple]:
    for i, (true, said) in enumerate(zip(p.labels.tolist(), p.predictions.tolist(), strict=True)):
        row = [true, classes[true], said, classes[said], int(true == said)]
        row += [_text(p.shares[i, 0]), _text(p.own[i]), _text(p.margins[i])]
        row += [] if p.tempered is None else [_text(p.tempered[i])]
        for label, share in zip(p.top[i, 1:], p.shares[i, 1:], strict=True):
            row += [classes[label], _text(share)]
        yield tuple(row)


def _several(p: SeveralPredictions, classes: Sequence[str]) -> Iterator[tuple]:
    for target, shares in zip(p.labels, p.probabilities, strict=True):
        said = shares >= HALF
        names = (BETWEEN.join(classes[k] for k in np.flatnonzero(on)) for on in (target, said))
        row = [*names, int((said == (target > 0)).all())]
        for label in np.argsort(-shares, kind="stable")[:TOP]:
            row += [classes[label], _text(shares[label])]
        yield tuple(row)


def _text(share: float) -> str:
    return f"{share:.6f}"


def write_per_class(
    path: Path,
    predictions: AnyPredictions,
    classes: Sequence[str],
    trained: Sequence[int] | None,
) -> None:
    """Write per_class.csv; a class without images has no accuracy.

    Args:
        path: the file.
        predictions: of a split.
        classes: names of the classes.
        trained: number of training images of each; None: not known.
    """
    several = isinstance(predictions, SeveralPredictions)
    columns = class_recall(predictions) if several else class_accuracy(predictions, len(classes))
    rows = [
        {"label": i, "class": name}
        | {key: _cell(key, values[i]) for key, values in columns.items()}
        | {"training_images": "" if trained is None else trained[i]}
        for i, name in enumerate(classes)
    ]
    write_csv(path, rows)


def class_accuracy(predictions: Predictions, num_classes: int) -> dict[str, np.ndarray]:
    """Return by class "images", "correct", "accuracy" (%), "accuracy_low" and "accuracy_high".

    The last two are Wilson's 95 % interval. A class without images has NaN.

    Args:
        predictions: of a split.
        num_classes: C.
    """
    labels = predictions.labels
    images = np.bincount(labels, minlength=num_classes)
    correct = np.bincount(labels[labels == predictions.predictions], minlength=num_classes)
    return {"images": images, "correct": correct} | _share("accuracy", correct, images)


def class_recall(predictions: SeveralPredictions) -> dict[str, np.ndarray]:
    """Return by class its images, "average_precision", and recall and precision from 0.5 on (%).

    Args:
        predictions: of a split whose images may have several classes.
    """
    true, said = predictions.labels > 0, predictions.probabilities >= HALF
    images, right = true.sum(0), (true & said).sum(0)
    with np.errstate(invalid="ignore"):
        precision = 100 * right / said.sum(0)
    ap = 100 * average_precision(predictions.probabilities, predictions.labels)
    columns = {"images": images, "predicted": said.sum(0), "correct": right}
    columns |= {"average_precision": ap, "precision": precision}
    return columns | _share("recall", right, images)


def _share(name: str, found: np.ndarray, total: np.ndarray) -> dict[str, np.ndarray]:
    with np.errstate(invalid="ignore"):
        share = 100 * found / total
    low, high = wilson(found, total)
    return {name: share, f"{name}_low": 100 * low, f"{name}_high": 100 * high}


def _cell(key: str, value: Any) -> Any:
    if np.issubdtype(np.asarray(value).dtype, np.integer):
        return value
    return f"{value:.4f}" if np.isfinite(value) else ""
