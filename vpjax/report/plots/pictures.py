"""Every picture of a run: its file, the runs that have it, the function that draws it.

A picture is a function of a `Subject` in this folder, and a line in PICTURES.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Union

from vpjax.core.errors import UserError, unknown
from vpjax.methods.sa2vp import SA2VP
from vpjax.report.plots import attention, style, subprompts
from vpjax.report.plots.calibration import calibration
from vpjax.report.plots.confusion import confusion, per_class
from vpjax.report.plots.curves import curves
from vpjax.report.plots.gradcam import gradcam
from vpjax.report.plots.mistakes import mistakes
from vpjax.report.plots.prompt_map import prompt_map
from vpjax.report.plots.prompts import learnt, prompts
from vpjax.report.plots.subject import Subject
from vpjax.runs.history import read_history

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
DPI = 200
SPELT = {"subprompt_options": "--class_name, --class_idx, --top_n, --tau or --split"}


class Picture(NamedTuple):
    """How to draw a picture, and which runs have it.

    Attributes:
        draw: returns the figure, or the files it wrote.
        applies: whether a run has the picture.
        after_training: whether every run draws it when it ends.
        choices: what it shows of the subject can be chosen by, attributes of `Subject`.
    """

    draw: Callable[[Subject], Union["Figure", list[Path]]]
    applies: Callable[[Subject], bool]
    after_training: bool = True
    choices: tuple[str, ...] = ()


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
        after_training=False,  # `vpjax.report.finish` draws it by itself
    ),
    "prompts": Picture(prompts, lambda s: bool(learnt(s))),
    "prompt_map": Picture(
        lambda s: prompt_map(s.model, *s.example, s.patch), _is_sa2vp, choices=("image", "patch")
    ),
    "gradcam": Picture(gradcam, lambda s: bool(s.split), choices=("image", "target", "baseline")),
    "attention": Picture(
        attention.attention_maps,
        lambda s: bool(s.split) and attention.applies(s) and not _is_sa2vp(s),
        choices=("image",),
    ),
    "confusion": Picture(confusion, _has_classes),
    "per_class": Picture(per_class, _has_classes),
    "mistakes": Picture(mistakes, lambda s: bool(s.split)),
    "calibration": Picture(calibration, _has_classes),
    "subprompts": Picture(
        subprompts.subprompts,
        subprompts.applies,
        after_training=False,
        choices=("image", "subprompt_options"),
    ),
}


def draw(subject: Subject, wanted: Iterable[str] = ()) -> list[Path]:
    """Draw pictures of a run into its folder; return their files.

    Args:
        wanted: names of pictures; none: all that apply.

    Raises:
        UserError: for a picture that does not exist or does not apply.
    """
    wanted = list(wanted)
    for name in wanted:
        if name not in PICTURES:
            raise unknown("picture", name, PICTURES)
        if not PICTURES[name].applies(subject):
            method = subject.experiment.config.method.name
            raise UserError(f"picture {name!r} does not apply to this run (method {method})")
    names = wanted or [name for name, p in PICTURES.items() if p.applies(subject)]
    check_choices(subject, names)
    return [path for name in names for path in save(subject, name)]


def check_choices(subject: Subject, names: Iterable[str]) -> None:
    """Check that every choice of what to show is that of a picture which is drawn.

    Raises:
        UserError: for one that no picture heeds.
    """
    usual = {f.name: f.default for f in dataclasses.fields(Subject)}
    heeded = {choice for name in names for choice in PICTURES[name].choices}
    for choice in sorted({choice for p in PICTURES.values() for choice in p.choices} - heeded):
        if getattr(subject, choice) != usual[choice]:
            have = ", ".join(name for name, p in PICTURES.items() if choice in p.choices)
            raise UserError(
                f"{SPELT.get(choice, f'--{choice}')} has no effect: it is for {have}, and what is "
                f"drawn of this run is {', '.join(names)}. Leave it out, or choose another picture."
            )


def save(subject: Subject, name: str) -> list[Path]:
    """Draw one picture; return its files."""
    drawn = PICTURES[name].draw(subject)
    if isinstance(drawn, list):
        paths = drawn
    else:
        paths = [subject.folder / f"{name}.png"]
        style.save(drawn, paths[0], DPI)
    for path in paths:
        if path.suffix == ".png":
            log.info("picture   %s", path)
    return paths
