"""A run's folder: one run, one config, one process at a time.

config.json      the resolved config               metrics.jsonl, metrics.csv   the history
result.json      metrics and facts                 curves.png                   its picture
evaluation.json  the metrics by split              per_class.csv                accuracy by class
predictions.csv  of the test split, by image       mistakes.png, calibration.png
checkpoints/     last and best                     log.txt, splits.csv          messages; held-out

Of several processes that work on one run, process 0 locks the folder and writes its files. The
others write the same files to a temporary folder; only checkpoints are saved by all.
"""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpjax.core import distributed, forms, leftovers
from vpjax.core.errors import Diverged, UserError
from vpjax.core.files import lock_folder, write_json
from vpjax.core.forms import Damaged
from vpjax.runs import config as configs
from vpjax.runs import places, recorded

log = logging.getLogger(__name__)

LENGTH = ("train.epochs", "train.steps")
EXTENDED = "extended.json"  # a line for each time that the run was made longer
# What result.json holds, where it holds it; a report asks for more of a finished run.
RESULT = {
    **{f"{key}?": str for key in ("status", "reason", "method", "metric", "preset")},
    **{f"{key}?": str for key in ("data_fingerprint", "dtype", "attention", "remat")},
    **{f"{key}?": int for key in ("step", "trainable", "total", "steps_per_epoch", "seed")},
    **{f"{key}?": forms.NUMBER for key in ("percent", "seconds")},
    **{f"{key}?": (str, None) for key in ("command", "commit")},
    "weights?": {"where?": (str, None), "sha256?": (str, None)},
    "data?": {str: {"name": str, "images": int}},
    "image_size?": [int],
    "devices?": [str],
    "loss_faults?": [str],
    "versions?": {str: (str, None)},
}
# What it holds of a finished run in any case.
NEEDED = ("method", "metric", "trainable", "percent", "weights", "data", "data_fingerprint")
NEEDED += ("preset", "image_size", "seed")
SHOWN = ("step", "seconds")  # by commands that find a finished run
RESULT_ADVICE = (
    "Restore it from a copy; or rename it and give the command that trained the run again, which "
    "goes on from its last checkpoint and writes it anew."
)
EXTENDED_ADVICE = "Restore it from a copy; or rename it, and the result does not say it."
FAILURE = {"reason": str, "diverged": bool}


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[Path]:
    """Lock a run's folder for all processes of the run; yield the folder this one writes to.

    Raises:
        UserError: in all processes, if the folder is in use or cannot be written.
    """
    with contextlib.ExitStack() as held:
        distributed.broadcast_from_zero(lambda: held.enter_context(lock_folder(workdir)))
        if not distributed.index():
            leftovers.clean([workdir], age=0)
        yield held.enter_context(own_folder(workdir))


@contextlib.contextmanager
def own_folder(workdir: Path) -> Iterator[Path]:
    """Yield `workdir` in process 0, and in others a temporary folder."""
    if not distributed.index():
        yield workdir
        return
    with tempfile.TemporaryDirectory(prefix="vpjax-") as elsewhere:
        yield Path(elsewhere)


def open_workdir(workdir: Path, config: ConfigDict, extend: bool = False) -> dict[str, Any] | None:
    """Return the result of a finished run; None of a run that is to begin or to go on.

    Process 0 looks, for all processes.

    Args:
        workdir: folder of the run.
        config: that the folder must belong to.
        extend: whether it may be longer than the run was, which then goes on.

    Raises:
        UserError: if the folder belongs to a run with another config.
    """

    def look():
        check_config(workdir, config, LENGTH if extend else ())
        result = read_result(workdir)
        lacking = [key for key in SHOWN if key not in (SHOWN if result is None else result)]
        wrong = f"lacks {', '.join(lacking)}" if lacking else incomplete(result or {"status": ""})
        if wrong:
            raise Damaged(f"{workdir / 'result.json'} is damaged: it {wrong}. {RESULT_ADVICE}")
        if not extend:
            return result
        changed = configs.differences(places.whole(config), recorded.load(workdir))
        return None if any(line.startswith(LENGTH) for line in changed) else result

    return distributed.broadcast_from_zero(look)


def record_extension(workdir: Path, config: ConfigDict, steps: int) -> None:
    """Note that a run becomes longer, and keep the result that it had, as result_step<N>.json.

    Args:
        workdir: folder of the run.
        config: with its new length.
        steps: that length.

    Raises:
        UserError: if the run has saved nothing, or is as long already.
    """

    def note():
        saved = [int(p.name) for p in workdir.glob("checkpoints/last/[0-9]*") if p.name.isdigit()]
        if not saved:
            raise UserError(f"{workdir} has no checkpoint: there is no run to extend. Train first.")
        if steps <= max(saved):
            raise UserError(
                f"{workdir} has {max(saved)} steps already, and --extend is to give it {steps}. "
                "Raise config.train.steps or config.train.epochs."
            )
        before = recorded.load(workdir).train
        now = {key: config.train[key] for key in ("epochs", "steps")}
        changed = {f"train.{k}": [before[k], v] for k, v in now.items() if before[k] != v}
        if not changed:
            return
        known = forms.read(workdir / EXTENDED, [dict], EXTENDED_ADVICE) or []
        write_json(workdir / EXTENDED, [*known, {"from_step": max(saved), "changed": changed}])
        if (result := read_result(workdir)) is not None:
            os.replace(workdir / "result.json", workdir / f"result_step{result['step']}.json")

    distributed.broadcast_from_zero(note)


def extensions(workdir: Path) -> list[dict[str, Any]]:
    """Return what was noted when a run was made longer; [] also where that is damaged: it is said.

    A note is no reason to lose the result of a run that has ended.
    """
    try:
        return forms.read(workdir / EXTENDED, [dict], EXTENDED_ADVICE) or []
    except Damaged as error:
        log.warning("warning   %s", error)
        return []


def started(workdir: Path) -> bool:
    """Return whether a folder holds a run that has saved something."""
    return read_result(workdir) is not None or has_checkpoints(workdir)


def has_checkpoints(workdir: Path) -> bool:
    """Return whether a folder holds checkpoints of a run."""
    return any(workdir.glob("checkpoints/*/[0-9]*"))


def check_config(workdir: Path, config: ConfigDict, free: Sequence[str] = ()) -> None:
    """Check that a folder holds no run with another config.

    The section `mesh` and `loggers` may differ, as a run may go on with others, and so may the
    places of files that are not where they were.

    Args:
        workdir: folder of the run.
        config: that it must belong to.
        free: further keys that may differ.

    Raises:
        UserError: if it does not, with the keys that differ.
    """
    known = (workdir / "config.json").exists() or recorded.rebuilt(workdir) is not None
    if not started(workdir) or not known:
        return
    now, before = places.whole(config), places.whole(recorded.load(workdir))
    ours, theirs = configs.flat(now), configs.flat(before)
    moved = [key for key in ours if places.same(key, ours[key], theirs.get(key))]
    lines = configs.differences(now, before)
    free = ("mesh.", "loggers:", *(f"{key}:" for key in (*free, *moved)))
    if changed := [line for line in lines if not line.startswith(free)]:
        longer = all(line.startswith(tuple(f"{key}:" for key in LENGTH)) for line in changed)
        raise UserError(
            f"workdir {workdir} belongs to a run with another config:\n  "
            + "\n  ".join(changed)
            + "\nGive another --workdir, or the same config to go on with that run"
            + (", or --extend to train it for longer." if longer else ".")
        )


def read_result(workdir: Path) -> dict[str, Any] | None:
    """Return the content of result.json; None if the run is not finished.

    Raises:
        Damaged: if it is not as a run writes it.
    """
    path = workdir / "result.json"
    found = forms.read(path, RESULT, RESULT_ADVICE)
    for key, value in (found or {}).items():
        numbers = key.startswith(("val_", "test_", "best_val_"))
        if numbers and (value is None or not forms.fault(value, forms.NUMBER)):
            continue
        if numbers:
            raise Damaged(
                f"{path} is damaged: {key} is {value!r:.60}, expected a number. {RESULT_ADVICE}"
            )
    return found


def incomplete(result: Mapping[str, Any]) -> str:
    """Return what the result of a finished run lacks, "lacks preset" or the like; "": nothing."""
    if result.get("status", "finished") != "finished":
        return ""
    if missing := [key for key in NEEDED if key not in result]:
        return f"lacks {', '.join(missing)}"
    data, size = result["data"], result["image_size"]
    split = next((part for part in ("test", "val") if part in data), "")
    primary = f"{split}_{result['metric']}"
    for part in ("test", "val"):
        if part not in data and f"{part}_{result['metric']}" in result:
            return f"lacks the data of {part}"
    if "train" not in data or (split and primary not in result):
        return f"lacks {primary if 'train' in data else 'the training data'}"
    return "" if len(size) == 2 else f"has image_size {size}, expected height and width"


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
    try:
        found = forms.read(workdir / "failed.json", FAILURE, "The run is tried again.")
    except Damaged as e:
        log.warning("warning   %s", e)
        return None
    if found is None:
        return None
    if found["diverged"]:
        return Diverged(found["reason"])
    return None if final else UserError(found["reason"])
