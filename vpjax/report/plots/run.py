"""`--mode draw`: pictures of what a run has learnt, into its folder.

See `vpjax.report.plots.pictures` for what there is.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vpjax.core.errors import UserError
from vpjax.report.plots.pictures import draw
from vpjax.report.plots.subject import OfClass, Subject
from vpjax.runs.restore import reopen_run


def draw_run(
    folder: Path,
    image: int = 0,
    patch: tuple[int, int] | None = None,
    target: str = "",
    baseline: Path | None = None,
    wanted: Iterable[str] = (),
    of_class: OfClass = OfClass(),  # noqa: B008 - immutable
) -> list[Path]:
    """Draws a run from the checkpoint it selects; returns the pictures' files.

    `wanted` names pictures, by default all that apply; the other choices are those of `Subject`,
    `baseline` being another run's folder.
    Raises: UserError if a picture does not apply, a choice does not exist, the baseline saw other
    images, or there is no run or checkpoint.
    """
    beside = None
    if baseline is not None:
        beside = subject(baseline, image=image)
    chosen = {"image": image, "patch": patch, "target": target, "of_class": of_class}
    mine = subject(folder, **chosen, baseline=beside)
    if beside is not None:
        names = [s.experiment.sources[s.split].name if s.split else None for s in (mine, beside)]
        if names[0] != names[1]:
            raise UserError(
                f"the run is tested on {names[0]}, the baseline {baseline} on {names[1]}: only one "
                "image can be compared. Give a baseline with the same data."
            )
    return draw(mine, wanted)


def subject(folder: Path, **choices: Any) -> Subject:
    """Restores a run.

    Raises: UserError if there is no run or no checkpoint.
    """
    experiment, state = reopen_run(folder)
    return Subject(experiment, state, folder, **choices)
