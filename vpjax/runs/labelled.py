"""Evaluation of a run on labelled photos, without the data it was trained on.

    evaluate_place(load_run("runs/pets"), "photos/")

They are matched by the names of their folders. Files that cannot be read are named, counted and
left out. The run's folder gets `evaluations/<n>` with evaluation.json, predictions.csv and
per_class.csv.
"""

import logging
from pathlib import Path
from typing import Any, NamedTuple

from vpjax.core.errors import UserError
from vpjax.data.files import place_of
from vpjax.data.forgiving import Forgiving
from vpjax.data.labelled import open_labelled, without
from vpjax.data.source import Source
from vpjax.runs.evaluate import with_temperature
from vpjax.runs.experiment import decoding
from vpjax.runs.predict import BATCH, none_readable
from vpjax.runs.run import Run
from vpjax.runs.scores import (
    CALIBRATION,
    as_table,
    detailed_metrics,
    errors,
    margin_of_method,
    new_folder,
    recorded_calibration,
    write,
)
from vpjax.runs.split_files import AnyPredictions
from vpjax.train.calibration import tempered
from vpjax.train.evaluate import Predictions

log = logging.getLogger(__name__)


class Evaluated(NamedTuple):
    """An evaluation on labelled photos.

    Attributes:
        values: the metrics by name.
        skipped: why files were left out, by path.
        folder: where its files lie.
        predictions: of the images that could be read.
        source: those images.
    """

    values: dict[str, float]
    skipped: dict[str, str]
    folder: Path
    predictions: AnyPredictions
    source: Source


def evaluate_place(run: Run, where: Path, split: str = "", batch_size: int = BATCH) -> Evaluated:
    """Evaluate a run on a labelled folder or list; write the files of an evaluation.

    Args:
        run: the run.
        where: a folder with a folder for each class, or a list, see `vpjax.data.labelled`.
        split: where it has several; "": the test split.
        batch_size: images that are computed at once.

    Raises:
        UserError: if there are no readable images, or one has a class that the run lacks.
    """
    source = Forgiving(open_labelled(where, run.classes, split, decoding(run.config)))
    known = recorded_calibration(run.folder, run.step)
    heat = known.get("temperature")
    look = None if heat is None else tempered(heat)
    try:
        values, predictions, seen = run.measure(source, batch_size, look)
    except UserError as error:
        if len(source.unreadable) < len(source):
            raise
        raise none_readable(source.skipped) from error
    predictions = with_temperature(predictions, heat, seen)
    skipped, left = source.skipped, without(source, source.unreadable)
    facts: dict[str, Any] = {"step": run.step, "data": source.name, "images": len(left)}
    facts |= {"skipped": skipped, "predictions_of": "test"}
    if isinstance(predictions, Predictions):
        values |= detailed_metrics(predictions, run.metadata, None)
        found = {k: v for k, v in known.items() if k in CALIBRATION}
        facts["calibration"] = found | {"test": errors(predictions)}
    facts |= {"margin_of": margin_of_method(run.model.method), "test": values}
    folder = new_folder(run.folder / "evaluations")
    write(folder, facts, predictions, run.classes, left.records.names, None)
    log.info("evaluated %s, %d images, step %d", source.name, len(left), run.step)
    data = run.config.data
    _, _, own = data.name.partition(":")
    if own and place_of(own, data.dir).resolve() == where.resolve():
        log.warning(
            "warning   these are the run's own data, images that it was trained on among them: "
            "eval without a path measures its test split alone"
        )
    log.info("\n%s\n", as_table("photos", values, facts["margin_of"]))
    return Evaluated(values, skipped, folder, predictions, left)
