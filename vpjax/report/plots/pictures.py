"""Every picture of a run: its file, where it applies, who draws it.

A picture is a function of a `Subject` in this folder, and a line in PICTURES.
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from vpjax.core.errors import UserError, unknown
from vpjax.methods.sa2vp import SA2VP
from vpjax.report.plots.attention import applies as attends
from vpjax.report.plots.attention import attention_maps
from vpjax.report.plots.confusion import confusion, per_class
from vpjax.report.plots.curves import curves
from vpjax.report.plots.gradcam import gradcam
from vpjax.report.plots.prompt_map import prompt_map
from vpjax.report.plots.prompts import learnt, prompts
from vpjax.report.plots.subject import Subject
from vpjax.report.plots.subprompts import applies as has_subprompts
from vpjax.report.plots.subprompts import subprompts
from vpjax.runs.experiment import Experiment
from vpjax.runs.history import read_history
from vpjax.train.step import State

log = logging.getLogger(__name__)
DPI = 200


class Picture(NamedTuple):
    """How to draw a picture, and whether a run has it."""

    draw: Callable  # subject -> figure, or the files it wrote
    applies: Callable  # subject -> bool
    at_the_end: bool = True  # of training, by itself


def _has_classes(subject: Subject) -> bool:
    return bool(subject.split) and not subject.experiment.sources[subject.split].multilabel


def _history(subject: Subject) -> Path:
    return subject.folder / "metrics.jsonl"


def _is_sa2vp(subject: Subject) -> bool:
    return isinstance(subject.model.method, SA2VP)


PICTURES = {
    "curves": Picture(
        lambda s: curves(read_history(_history(s)), title=s.folder.name),
        lambda s: _history(s).exists(),
        at_the_end=False,  # every run has drawn it by then
    ),
    "prompts": Picture(prompts, lambda s: bool(learnt(s))),
    "prompt_map": Picture(lambda s: prompt_map(s.model, *s.example, s.patch), _is_sa2vp),
    "gradcam": Picture(gradcam, lambda s: bool(s.split)),
    "attention": Picture(
        attention_maps, lambda s: bool(s.split) and attends(s) and not _is_sa2vp(s)
    ),
    "confusion": Picture(confusion, _has_classes),
    "per_class": Picture(per_class, _has_classes),
    "subprompts": Picture(subprompts, has_subprompts, at_the_end=False),
}


def draw(subject: Subject, wanted: Iterable[str] = ()) -> list[Path]:
    """Draws the pictures of a run into its folder, all that apply or those `wanted`.

    Raises: UserError for a picture that does not exist or does not apply.
    """
    wanted = list(wanted)
    for name in wanted:
        if name not in PICTURES:
            raise unknown("picture", name, PICTURES)
        if not PICTURES[name].applies(subject):
            method = subject.experiment.config.method.name
            raise UserError(f"picture {name!r} is not for this run (method {method})")
    names = wanted or [name for name, p in PICTURES.items() if p.applies(subject)]
    return [path for name in names for path in save(subject, name)]


def save(subject: Subject, name: str) -> list[Path]:
    """Draws one picture; returns its files."""
    drawn = PICTURES[name].draw(subject)
    if isinstance(drawn, Figure):
        path = subject.folder / f"{name}.png"
        drawn.savefig(path, dpi=DPI, bbox_inches="tight")
        drawn = [path]
    for path in drawn:
        if path.suffix == ".png":
            log.info("picture   %s", path)
    return drawn


def at_the_end(experiment: Experiment, state: State, folder: Path) -> None:
    """Draws what a finished run has to show; what cannot be drawn is a warning, no loss."""
    if not experiment.config.draw:
        return
    subject = Subject(experiment, state, folder)
    for name, picture in PICTURES.items():
        try:
            if picture.at_the_end and picture.applies(subject):
                save(subject, name)
        except Exception as e:  # a picture is worth less than the run
            reason = (str(e).splitlines() or [""])[0]
            log.warning("warning   %s.png was not drawn: %s: %s", name, type(e).__name__, reason)
