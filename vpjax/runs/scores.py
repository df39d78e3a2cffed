"""The full evaluation of a split, as a table and as files.

    accuracy, top-5, mean over classes    every data set with one class an image
    precision, recall, F1                 the same; unweighted means over classes
    genus, family, order                  where the taxonomy of the classes is known
    many-, medium-, few-shot              classes by training images, where these numbers differ
    margin                                largest minus second largest softmax probability

A run's folder gets

    evaluation.json    the metrics by split, and the checkpoint they are of
    per_class.csv      a line for each class: images, correct ones, training images

A margin depends on the scale of the logits, which is named beside it: margins of 714 cosines and of
100 cosines are not comparable. For several classes an image see `vpjax.train.evaluate`.
"""

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vpjax.core.errors import UserError
from vpjax.core.files import write_json
from vpjax.core.table import table, write_csv
from vpjax.models.partition import merge
from vpjax.runs import recorded, workdir
from vpjax.runs.evaluate import evaluate_split
from vpjax.runs.experiment import Experiment
from vpjax.runs.reopen import reopen_run
from vpjax.train import taxonomy
from vpjax.train.evaluate import Predictions
from vpjax.train.metrics import macro
from vpjax.train.step import State

log = logging.getLogger(__name__)

NAMES = {
    "accuracy": "accuracy",
    "top5": "top-5",
    "auc": "AUC",
    "map": "mAP",
    "mean_recall": "mean recall",
    "f1_micro": "F1, micro",
    "f1_macro": "F1, macro",
    "f1_samples": "F1, by image",
    "mean_class_accuracy": "mean over classes",
}

Numbers = dict[str, float]


def score(
    experiment: Experiment, state: State, splits: Iterable[str], folder: Path, **facts: Any
) -> dict[str, Numbers]:
    """Evaluate splits, and write evaluation.json and, for the last split, per_class.csv.

    Args:
        experiment: from `prepare`.
        state: the weights.
        splits: such as "val" and "test".
        folder: to write to.
        facts: further values for evaluation.json.

    Returns:
        The metrics by split.

    Raises:
        Diverged: if a loss is infinite or NaN.
    """
    classes, counts = experiment.classes, experiment.counts
    found, predictions = {}, None
    for split in splits:
        found[split], predictions = evaluate_split(experiment, state, split)
        if predictions is not None:
            found[split] |= detailed_metrics(predictions, classes.metadata, counts)
    facts["margin_of"] = margin_of(experiment)
    try:
        write_json(folder / "evaluation.json", facts | found)
        if predictions is not None:
            write_per_class(folder / "per_class.csv", predictions, classes.names, counts)
    except OSError as e:
        log.warning("%s cannot be written: %s", folder, e.strerror)
    return found


def detailed_metrics(
    predictions: Predictions,
    metadata: Sequence[Mapping[str, Any]],
    counts: Sequence[int] | None,
) -> Numbers:
    """Return precision, recall and F1, metrics by taxonomic level and number of training images,
    and the margin.

    Args:
        predictions: for a split.
        metadata: of every class, with its taxonomy.
        counts: training images of every class; None: not known.
    """
    counts = None if counts is None else np.asarray(counts)
    if counts is not None and np.count_nonzero(taxonomy.group_sizes(counts)) < 2:
        counts = None  # all classes are in one group
    found = taxonomy.evaluation_report(
        predictions.predictions, predictions.labels, metadata, counts
    )
    own = {k: v for k, v in found.items() if k not in ("accuracy", "balanced", "count")}
    averages = macro(predictions.labels, predictions.predictions, len(metadata))
    own |= {k: 100 * v for k, v in averages.items()}
    return own | {"margin": float(predictions.margins.mean(dtype=np.float64))}


def margin_of(experiment: Experiment) -> str:
    """Return which probabilities the margin is of, such as "softmax of 714.3 cosines"."""
    return f"softmax of {merge(*experiment.parts).method.logit_description}"


def as_table(split: str, numbers: Numbers, margin_of: str) -> str:
    """Return the metrics of a split as a text table that is also Markdown.

    Args:
        split: its name.
        numbers: the metrics.
        margin_of: which probabilities the margin is of.
    """
    rows = [[name, f"{numbers[key]:.2f} %"] for key, name in NAMES.items() if key in numbers]
    rows += [[f"{k} right", f"{numbers[k]:.2f} %"] for k in taxonomy.LEVELS if k in numbers]
    for group in taxonomy.SHOTS:
        if group in numbers:
            classes, images = (numbers[f"{group}_{of}"] for of in ("classes", "images"))
            name = f"{group}-shot ({classes} classes, {images} images)"
            rows.append([name, f"{numbers[group]:.2f} %"])
    if "margin" in numbers:
        rows.append([f"margin ({margin_of})", f"{numbers['margin']:.3f}"])
    return table([f"{split}, {numbers['count']} images", ""], rows)


def write_per_class(
    path: Path, predictions: Predictions, names: Sequence[str], counts: Sequence[int] | None
) -> None:
    """Write a row for each class as CSV; a class without images has an empty accuracy.

    Args:
        path: the file.
        predictions: for a split.
        names: of the classes.
        counts: training images of every class; None: not known.
    """
    size, labels = len(names), predictions.labels
    images = np.bincount(labels, minlength=size)
    correct = np.bincount(labels[labels == predictions.predictions], minlength=size)
    rows = [
        {
            "label": i,
            "class": name,
            "images": images[i],
            "correct": correct[i],
            "accuracy": f"{100 * correct[i] / images[i]:.4f}" if images[i] else "",
            "training_images": "" if counts is None else counts[i],
        }
        for i, name in enumerate(names)
    ]
    write_csv(path, rows)


def new_folder(parent: Path) -> Path:
    """Make and return the first of parent/1, parent/2 ... that does not exist."""
    parent.mkdir(exist_ok=True)
    number = next(n for n in itertools.count(1) if not (parent / str(n)).exists())
    (parent / str(number)).mkdir()
    return parent / str(number)


def evaluate_run(
    folder: Path, config: ConfigDict | None = None, checkpoint: str = ""
) -> dict[str, Any]:
    """Restore a run and evaluate its test split, or else val; write the files of `score`.

    They take the place of the run's own only where the same was evaluated; else they go to a new
    folder in `evaluations`.

    Args:
        folder: of the run.
        config: of the run, see `vpjax.runs.recorded`; None: as it was recorded.
        checkpoint: "last", "best" or a step; "": the one that the run reports.

    Returns:
        The metrics, as "test_accuracy" or "val_accuracy" ..., with the step and the checkpoint.

    Raises:
        UserError: if the run cannot be restored, or has neither split.
    """
    experiment, state = reopen_run(folder, config, checkpoint)
    split = next(iter(experiment.sources), "")
    if not split:
        raise UserError(
            f"data.test and data.val of {folder} are empty: no split to evaluate. Name one with "
            "--config.data.test=SPLIT, and other data with --config.data.name=NAME."
        )
    source, step = experiment.sources[split], int(state.step)
    facts = {"step": step, "checkpoint": checkpoint or experiment.config.train.select}
    changed = recorded.changes(folder, experiment.config)
    changed = {k: v for k, (_, v) in changed.items() if recorded.changes_numbers(k)}
    with workdir.own_folder(folder) as own:
        if changed or checkpoint:
            own = new_folder(own / "evaluations")
        named = {"data": source.name, "images": len(source), "changed": changed}
        values = score(experiment, state, [split], own, **facts, **named)[split]
    log.info(
        "evaluated %s, %d images: checkpoint %s of step %d, preset %s, %s",
        source.name,
        len(source),
        facts["checkpoint"],
        step,
        experiment.preset,
        experiment.config.dtype,
    )
    log.info("files     %s", own)
    log.info("\n%s\n", as_table(split, values, margin_of(experiment)))
    facts["metric"] = experiment.metric
    return facts | {f"{split}_{k}": v for k, v in values.items()}
