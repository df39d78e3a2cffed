"""A run's folder: one run, one config, one process at a time.

config.json      the resolved config               metrics.jsonl, metrics.csv   the history
result.json      what came out                     curves.png                   its picture
evaluation.json  the numbers by split              per_class.csv                a line a class
checkpoints/     last and best                     log.txt                      what was printed

Of several processes that work on one run, process 0 holds the folder and writes its files. The
others write theirs, which are the same, where nobody looks; only checkpoints are saved by all.
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


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[Path]:
    """Hold `workdir` for all processes that work on a run; yield where this one writes.

    Raises: as `claim` does, in all of them.
    """
    with contextlib.ExitStack() as held:
        distributed.broadcast_from_zero(lambda: held.enter_context(lock_folder(workdir)))
        yield held.enter_context(own_folder(workdir))


@contextlib.contextmanager
def own_folder(workdir: Path) -> Iterator[Path]:
    """Yield `workdir` in process 0, and in others a folder that is gone afterwards."""
    if not distributed.index():
        yield workdir
        return
    with tempfile.TemporaryDirectory(prefix="vpjax-") as elsewhere:
        yield Path(elsewhere)


def open_workdir(workdir: Path, config: ConfigDict) -> dict[str, Any] | None:
    """Return the result of a finished run, None of one to begin or to go on with.

    Process 0 looks, for all.
    Raises: UserError as `check_config` does.
    """

    def look():
        check_config(workdir, config)
        return read_result(workdir)

    return distributed.broadcast_from_zero(look)


def check_config(workdir: Path, config: ConfigDict) -> None:
    """Raise a UserError if `workdir` holds results of another config.

    The devices that a run goes on with may be others.
    """
    path = workdir / "config.json"
    started = read_result(workdir) is not None or any(workdir.glob("checkpoints/*/[0-9]*"))
    if not started or not path.exists():
        return
    lines = configs.differences(config, configs.load(path))
    if changed := [line for line in lines if not line.startswith("mesh.")]:
        raise UserError(
            f"workdir {workdir} belongs to a run with another config:\n  "
            + "\n  ".join(changed)
            + "\nGive another --workdir, or the same config to go on with that run."
        )


def read_result(workdir: Path) -> dict[str, Any] | None:
    """Return the result of a finished run, or None."""
    return read_json(workdir / "result.json")


def write_failure(workdir: Path, error: UserError) -> None:
    """Write down why a run failed, for whoever runs many."""
    reason, final = " ".join(str(error).split()), isinstance(error, Diverged)
    write_json(workdir / "failed.json", {"reason": reason, "diverged": final})


def read_failure(workdir: Path, *, final: bool = True) -> UserError | None:
    """Return why a run failed, or None. `final`: only what would fail again, as it diverged."""
    found = read_json(workdir / "failed.json")
    if found is None:
        return None
    if found["diverged"]:
        return Diverged(found["reason"])
    return None if final else UserError(found["reason"])
