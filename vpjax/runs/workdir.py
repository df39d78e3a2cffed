"""A run's folder: one run, one config, one process at a time.

config.json      the resolved config               metrics.jsonl, metrics.csv   the history
result.json      metrics and facts                 curves.png                   its picture
evaluation.json  the metrics by split              per_class.csv                accuracy by class
checkpoints/     last and best                     log.txt                      what was printed

Of several processes that work on one run, process 0 locks the folder and writes its files. The
others write the same files to a temporary folder; only checkpoints are saved by all.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpjax.core import distributed
from vpjax.core.errors import Diverged, UserError
from vpjax.core.files import lock_folder, read_json, write_json
from vpjax.runs import config as configs
from vpjax.runs import recorded


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[Path]:
    """Lock a run's folder for all processes of the run; yield the folder this one writes to.

    Raises:
        UserError: in all processes, if the folder is in use or cannot be written.
    """
    with contextlib.ExitStack() as held:
        distributed.broadcast_from_zero(lambda: held.enter_context(lock_folder(workdir)))
        yield held.enter_context(own_folder(workdir))


@contextlib.contextmanager
def own_folder(workdir: Path) -> Iterator[Path]:
    """Yield `workdir` in process 0, and in others a temporary folder."""
    if not distributed.index():
        yield workdir
        return
    with tempfile.TemporaryDirectory(prefix="vpjax-") as elsewhere:
        yield Path(elsewhere)


def open_workdir(workdir: Path, config: ConfigDict) -> dict[str, Any] | None:
    """Return the result of a finished run; None of a run that is to begin or to go on.

    Process 0 looks, for all processes.

    Args:
        workdir: folder of the run.
        config: that the folder must belong to.

    Raises:
        UserError: if the folder belongs to a run with another config.
    """

    def look():
        check_config(workdir, config)
        return read_result(workdir)

    return distributed.broadcast_from_zero(look)


def check_config(workdir: Path, config: ConfigDict) -> None:
    """Check that a folder holds no run with another config.

    The section `mesh` may differ, as a run may go on with other devices.

    Args:
        workdir: folder of the run.
        config: that it must belong to.

    Raises:
        UserError: if it does not, with the keys that differ.
    """
    path = workdir / "config.json"
    started = read_result(workdir) is not None or any(workdir.glob("checkpoints/*/[0-9]*"))
    if not started or not path.exists():
        return
    lines = configs.differences(config, recorded.load(workdir))
    if changed := [line for line in lines if not line.startswith("mesh.")]:
        raise UserError(
            f"workdir {workdir} belongs to a run with another config:\n  "
            + "\n  ".join(changed)
            + "\nGive another --workdir, or the same config to go on with that run."
        )


def read_result(workdir: Path) -> dict[str, Any] | None:
    """Return the content of result.json; None if the run is not finished."""
    return read_json(workdir / "result.json")


def write_failure(workdir: Path, error: UserError) -> None:
    """Write failed.json, which says why a run failed, for studies of many runs."""
    reason, final = " ".join(str(error).split()), isinstance(error, Diverged)
    write_json(workdir / "failed.json", {"reason": reason, "diverged": final})


def read_failure(workdir: Path, *, final: bool = True) -> UserError | None:
    """Return the error of a run that failed; None if it did not.

    Args:
        workdir: folder of the run.
        final: whether to return only errors that would happen again, as the run diverged.
    """
    found = read_json(workdir / "failed.json")
    if found is None:
        return None
    if found["diverged"]:
        return Diverged(found["reason"])
    return None if final else UserError(found["reason"])
