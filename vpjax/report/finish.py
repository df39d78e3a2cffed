"""Draw the results of a run that has just ended: the last step of training.

fit(config, folder, finish=draw_results)
"""

import logging
from pathlib import Path

from vpjax.core import distributed, logs
from vpjax.report.plots import pictures
from vpjax.report.plots.curves import draw_curves
from vpjax.report.plots.subject import Subject
from vpjax.runs.experiment import Experiment
from vpjax.train.step import State

log = logging.getLogger(__name__)


def draw_results(experiment: Experiment, state: State, folder: Path) -> None:
    """Draw curves.png (`config.curves`) and the pictures of a run (`config.draw`) into its folder.

    The result is already written: a picture that cannot be drawn is a warning.

    Args:
        state: the weights the run reports.
        folder: where this process writes. All processes of a run must call this, as pictures
            evaluate the test split, which they share; see `vpjax.runs.workdir.own_folder`.
    """
    if experiment.config.curves and not distributed.index():
        try:
            draw_curves(folder)
        except Exception as e:  # a picture is worth less than the run
            _warn("curves", e)
    if not experiment.config.draw:
        return
    subject = Subject(experiment, state, folder)
    for name, picture in pictures.PICTURES.items():
        try:
            if picture.after_training and picture.applies(subject):
                with logs.quiet():  # they are named in docs; the screen has the result
                    pictures.save(subject, name)
        except Exception as e:
            _warn(name, e)


def _warn(name: str, error: Exception) -> None:
    reason = (str(error).splitlines() or [""])[0]
    log.warning("warning   %s.png was not drawn: %s: %s", name, type(error).__name__, reason)
