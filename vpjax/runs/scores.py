"""The full evaluation of a split, as a table and as files.

    accuracy, top-5, mean over classes    every data set with one class an image
    precision, recall, F1                 the same; unweighted means over classes
    genus, family, order                  where the taxonomy of the classes is known
    many-, medium-, few-shot              classes by training images, where these numbers differ
    margin                                largest minus second largest softmax probability
    calibration error                     see `vpjax.train.calibration`

A run's folder gets

    evaluation.json    the metrics by split, the temperature, and the checkpoint they are of
    predictions.csv    a line for each image of the test split (of val, if there is no test)
    per_class.csv      a line for each class

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

from vpjax.core import forms
from vpjax.core.errors import UserError
from vpjax.core.files import write_json
from vpjax.core.table import table
from vpjax.methods.base import Method
from vpjax.models.partition import merge
from vpjax.runs import recorded, summary, workdir
from vpjax.runs.evaluate import evaluate_split, predict_split
from vpjax.runs.experiment import Experiment
from vpjax.runs.reopen import reopen_run
from vpjax.runs.restore import reported
from vpjax.runs.split_files import AnyPredictions, write_per_class, write_predictions
from vpjax.train import taxonomy
from vpjax.train.calibration import (
    BINS,
    Sums,
    expected_error,
    find_temperature,
    reliability,
    sums,
)
from vpjax.train.evaluate import Predictions
from vpjax.train.metrics import macro
from vpjax.train.step import State

log = logging.getLogger(__name__)

EVALUATION = {"step?": int, "calibration?": {"temperature?": (*forms.NUMBER, None)}}

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
    "ece": f"calibration error (ECE, {BINS} bins)",
}

# What evaluation.json says of the temperature, beside the errors of each split.
CALIBRATION = ("found_on", "temperature", "why_none", "nll", "nll_tempered")

Numbers = dict[str, float]


def score(
    experiment: Experiment,
    state: State,
    splits: Iterable[str],
    folder: Path,
    known: Mapping[str, Any] | None = None,
    **facts: Any,
) -> tuple[dict[str, Numbers], AnyPredictions | None]:
    """Evaluate splits, and write evaluation.json and, of the last split, its predictions.

    Args:
        experiment: from `prepare`.
        state: the weights.
        splits: such as "val" and "test", in this order.
        folder: to write to.
        known: the calibration that evaluation.json had, where val is not evaluated again.
        facts: further values for evaluation.json.

    Returns:
        The metrics by split, and the predictions for the last one; None without splits.

    Raises:
        Diverged: if a loss is infinite or NaN.
    """
    info, found, predictions = experiment.classes, {}, None
    calibration = {k: v for k, v in (known or {}).items() if k in CALIBRATION}
    for split in splits:
        if split == "val":
            values, predictions, seen = evaluate_split(experiment, state, split, sums)
            calibration = {"found_on": experiment.sources[split].name} | temperature_facts(
                seen, values["count"]
            )
        else:
            temperature = calibration.get("temperature")
            values, predictions = predict_split(experiment, state, split, temperature)
        found[split] = values
        if isinstance(predictions, Predictions):
            found[split] |= detailed_metrics(predictions, info.metadata, experiment.counts)
            calibration[split] = errors(predictions)
    facts["margin_of"] = margin_of(experiment)
    if predictions is not None:
        facts |= {"predictions_of": split} | ({"calibration": calibration} if calibration else {})
    files = None
    if predictions is not None:
        files = getattr(experiment.sources[split].records, "names", None)
    write(folder, facts | found, predictions, info.names, files, experiment.counts)
    return found, predictions


def write(
    folder: Path,
    content: Mapping[str, Any],
    predictions: AnyPredictions | None,
    classes: Sequence[str],
    files: Sequence[str] | None,
    trained: Sequence[int] | None,
) -> None:
    """Write evaluation.json, predictions.csv and per_class.csv; failing is a warning.

    Args:
        folder: to write to.
        content: of evaluation.json.
        predictions: of a split; None: there are none.
        classes: names of the classes.
        files: path of each image; None: not known.
        trained: number of training images of each class; None: not known.
    """
    try:
        write_json(folder / "evaluation.json", content)
        if predictions is not None:
            write_predictions(folder / "predictions.csv", predictions, classes, files)
            write_per_class(folder / "per_class.csv", predictions, classes, trained)
    except OSError as e:
        log.warning("%s cannot be written: %s", folder, e.strerror)


def temperature_facts(batches: list[Sums], images: int) -> dict[str, Any]:
    """Return what evaluation.json says of the temperature; nothing where there is none to find.

    Args:
        batches: from `vpjax.train.calibration.sums`; empty where images have several classes.
        images: of the split.
    """
    if not batches:
        return {}
    found = find_temperature(batches, images)
    return {"temperature": found.value, "why_none": found.why} | {
        key: getattr(found, key) for key in ("nll", "nll_tempered")
    }


def errors(predictions: Predictions) -> dict[str, Any]:
    """Return the calibration error (%) of a split and its bins, and with the temperature too."""
    right = predictions.labels == predictions.predictions
    out: dict[str, Any] = {"bin_count": BINS}
    kinds = {"": predictions.shares[:, 0], "_tempered": predictions.tempered}
    for kind, confidence in kinds.items():
        if confidence is not None:
            bins = reliability(confidence, right)
            out[f"ece{kind}"] = 100 * expected_error(bins)
            out[f"bins{kind}"] = [b._asdict() for b in bins if b.images]
    return out


def detailed_metrics(
    predictions: Predictions,
    metadata: Sequence[Mapping[str, Any]],
    counts: Sequence[int] | None,
) -> Numbers:
    """Return precision, recall and F1, metrics by taxonomic level and number of training images,
    the margin, and the calibration error.

    Args:
        predictions: for a split.
        metadata: of the C classes, with their taxonomy where it is known.
        counts: training images of each class; None: not known.
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
    own["margin"] = float(predictions.margins.mean(dtype=np.float64))
    return own | {"ece": errors(predictions)["ece"]}


def margin_of(experiment: Experiment) -> str:
    """Return which probabilities the margin is of, such as "softmax of 714.3 cosines"."""
    return margin_of_method(merge(*experiment.parts).method)


def margin_of_method(method: Method) -> str:
    """Return which probabilities the margin of a method's predictions is of."""
    return f"softmax of {method.logit_description}"


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


def new_folder(parent: Path) -> Path:
    """Make and return the first of parent/1, parent/2 ... that does not exist."""
    parent.mkdir(exist_ok=True)
    number = next(n for n in itertools.count(1) if not (parent / str(n)).exists())
    (parent / str(number)).mkdir()
    return parent / str(number)


def recorded_calibration(folder: Path, step: int) -> dict[str, Any]:
    """Return what evaluation.json of a run says of the temperature; {} if it is of another step."""
    found = None
    try:
        found = forms.read(folder / "evaluation.json", EVALUATION, "An evaluation writes it anew.")
    except forms.Damaged as e:
        log.warning("warning   %s", e)
    found = found or {}
    return found.get("calibration", {}) if found.get("step") == step else {}


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
        The metrics, as "test_accuracy" or "val_accuracy" ..., with the step, the checkpoint and
        what the split consists of.

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
    facts = {"step": step, "checkpoint": checkpoint or reported(folder, experiment.config)}
    changed = recorded.changes(folder, experiment.config)
    changed = {k: v for k, (_, v) in changed.items() if recorded.changes_numbers(k)}
    with workdir.own_folder(folder) as own:
        if changed or checkpoint:
            own = new_folder(own / "evaluations")
        known = recorded_calibration(folder, step)
        named = {"data": source.name, "images": len(source), "changed": changed}
        values = score(experiment, state, [split], own, known, **facts, **named)[0][split]
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
    facts["data"] = {split: summary.split_facts(source)}
    return facts | {f"{split}_{k}": v for k, v in values.items()}
