"""The command `plot`: draw pictures of a finished run into its folder, and its page.

    python main.py plot --workdir RUN --image 3

`vpjax.report.plots.pictures` lists the pictures.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpjax.core.errors import UserError
from vpjax.report.plots.pictures import draw
from vpjax.report.plots.subject import Subject, SubpromptOptions
from vpjax.report.run_page import write_run_page
from vpjax.runs.reopen import reopen_run

log = logging.getLogger(__name__)


def draw_run(
    folder: Path,
    config: ConfigDict | None = None,
    checkpoint: str = "",
    image: int = 0,
    patch: tuple[int, int] | None = None,
    target: str = "",
    baseline: Path | None = None,
    wanted: Iterable[str] = (),
    subprompt_options: SubpromptOptions = SubpromptOptions(),  # noqa: B008 - immutable
) -> list[Path]:
    """Draw pictures of a run, restored from a checkpoint; return their files.

    Args:
        folder: of the run.
        config: of the run, see `vpjax.runs.recorded`; None: as it was recorded.
        checkpoint: "last", "best" or a step; "": the one that the run reports.
        image, patch, target, subprompt_options: see `Subject`.
        baseline: another run's folder, drawn beside this one.
        wanted: names of pictures; none: all that apply.

    Raises:
        UserError: if a picture does not apply, an image, patch or site does not exist, the baseline
            was tested on other images, or there is no run or checkpoint.
    """
    beside = None
    if baseline is not None:
        beside = subject(baseline, image=image)
    chosen = {"image": image, "patch": patch, "target": target}
    choices = {"subprompt_options": subprompt_options, "baseline": beside}
    mine = subject(folder, config, checkpoint, **chosen, **choices)
    if beside is not None:
        names = [s.experiment.sources[s.split].name if s.split else None for s in (mine, beside)]
        if names[0] != names[1]:
            raise UserError(
                f"the run is tested on {names[0]}, the baseline {baseline} on {names[1]}: both "
                "must show the same image. Give a baseline with the same data."
            )
    paths = draw(mine, wanted)
    log.info("page      %s", write_run_page(folder))
    return paths


def subject(
    folder: Path, config: ConfigDict | None = None, checkpoint: str = "", **choices: Any
) -> Subject:
    """Restore a run as a subject of pictures; `choices` as in `Subject`, the rest as `draw_run`.

    Raises:
        UserError: if there is no run or no checkpoint.
    """
    options = choices.get("subprompt_options", SubpromptOptions())
    experiment, state = reopen_run(folder, config, checkpoint, filter(None, [options.split]))
    return Subject(experiment, state, folder, **choices)
