"""Draw the results of a run that has just ended, and write its page: the last step of training.

fit(config, folder, finish=draw_results)
"""

import logging
from pathlib import Path

from vpjax.core import distributed, logs
from vpjax.data.source import Source
from vpjax.report import examples
from vpjax.report.plots import pictures, style
from vpjax.report.plots.curves import draw_curves
from vpjax.report.plots.subject import Answered, Subject
from vpjax.report.run_folders import RUN_PAGE
from vpjax.report.run_page import write_run_page
from vpjax.report.write import report
from vpjax.runs.experiment import Experiment
from vpjax.runs.split_files import AnyPredictions
from vpjax.train.evaluate import Predictions
from vpjax.train.step import State

log = logging.getLogger(__name__)


def draw_results(
    experiment: Experiment, state: State, folder: Path, predictions: AnyPredictions | None = None
) -> None:
    """Draw curves.png (`config.curves`) and the pictures of a run (`config.draw`); write run.html.

    The result is already written: what cannot be drawn is a warning.

    Args:
        state: the weights the run reports.
        folder: where this process writes. All processes of a run must call this, as pictures
            evaluate the test split, which they share; see `vpjax.runs.workdir.own_folder`.
        predictions: for the reported split; None: they are computed when they are needed.
    """
    if experiment.config.curves and not distributed.index():
        try:
            draw_curves(folder)
        except Exception as e:  # a picture is worth less than the run
            _warn("curves.png", e)
    if experiment.config.draw:
        _draw_learnt(experiment, state, folder, predictions)
    if not distributed.index():
        write_page(experiment, folder)


def _draw_learnt(experiment, state, folder, predictions):
    """Draw what a run has learnt, and what it answers."""
    subject = Subject(experiment, state, folder, given=predictions)
    for name, picture in pictures.PICTURES.items():
        try:
            if picture.after_training and picture.applies(subject):
                with logs.quiet():  # they are named in docs; the screen has the result
                    pictures.save(subject, name)
        except Exception as e:
            _warn(f"{name}.png", e)


def draw_answers(
    predictions: AnyPredictions, classes: tuple[str, ...], source: Source, folder: Path
) -> None:
    """Draw the pictures of predictions, where no experiment is there; failing is a warning.

    Args:
        predictions: of labelled images.
        classes: their names.
        source: the images.
        folder: to draw into.
    """
    answered, names = Answered(predictions, classes, source), ["mistakes"]
    if isinstance(predictions, Predictions):
        names += ["confusion", "per_class", "calibration"]
    for name in names:
        try:
            figure = pictures.PICTURES[name].draw(answered)
            style.save(figure, folder / f"{name}.png", pictures.DPI)
        except Exception as e:
            _warn(f"{name}.png", e)


def write_page(experiment: Experiment, folder: Path) -> None:
    """Write examples of the training images and the page of a run into its folder."""
    for name, write in (
        (examples.PICTURE, lambda: examples.write_examples(experiment, folder)),
        (RUN_PAGE, lambda: log.info("page      %s", write_run_page(folder))),
    ):
        try:
            write()
        except Exception as e:
            _warn(name, e)


def write_report(folder: Path) -> None:
    """Write the report of the runs in a folder, as a study's last step; see `vpjax.report.write`.

    The study's own tables are already written: a report that cannot be written is a warning.
    """
    try:
        report(folder, quiet=True)
    except Exception as e:
        _warn("report.html", e)


def _warn(name: str, error: Exception) -> None:
    reason = (str(error).splitlines() or [""])[0]
    log.warning("warning   %s was not drawn: %s: %s", name, type(error).__name__, reason)
