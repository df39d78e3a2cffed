"""The command `tune`: choose settings on val, then read the test split once for each seed.

    python main.py tune --config configs/vtab.py:method=vpt_deep,task=svhn --workdir DIR

    select   every point of config.study.tune.grid trains on data.train and is evaluated on data.val
             after its last epoch; meanwhile the test split cannot be opened (`vpjax.data.lock`)
    choose   the highest; of equals the first of the grid; what diverged or failed is left out
    final    the choice trains on both splits, a run for each seed of config.study.seeds; test after
             the last epoch, mean and population standard deviation

    DIR/plan.json     the config                 DIR/select/<params>, DIR/final/seed<n>   the runs
    DIR/choice.json   the choice and its trials  DIR/tune.json, tune.md, tune.csv         the result

Every trial has a folder and a lock, so any number of processes may work in DIR: each takes what no
other does. Finished runs are not run again. With config.study.suite, all of this once for each
task, in DIR/<task>. `vpjax.studies.trials` makes the runs; docs/protocol.md explains the protocol.
"""

import contextlib
import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpjax.core import distributed, files
from vpjax.core.errors import InUse, UserError, unknown
from vpjax.data.lock import lock_split
from vpjax.report.finish import write_report
from vpjax.runs import config as configs
from vpjax.runs import workdir
from vpjax.runs.experiment import held
from vpjax.studies import tune_report
from vpjax.studies.cells import try_to_train
from vpjax.studies.cost import dry_run as estimate_cost
from vpjax.studies.lines import RunLines, ending
from vpjax.studies.plan import Plan, plans
from vpjax.studies.trials import Trial

log = logging.getLogger(__name__)

POLL = 5.0  # seconds between two looks at what other processes do
NOTICE = 600.0  # seconds between two messages about waiting
# Config keys that may change in a folder that has begun; those of the grid until the choice.
FREE = ("study.tune.split", "study.seeds", "draw", "data.dir")
UNTIL_CHOICE = ("study.tune.grid", "study.tune.also")


def command(
    config: ConfigDict,
    folder: Path,
    *,
    dry_run: bool = False,
    print_commands: bool = False,
    trial: str | None = None,
) -> None:
    """Run `tune`, or a part of it.

    Args:
        dry_run: log the estimated cost, and train nothing.
        print_commands: print this process's own command for each missing trial, with its --trial.
        trial: run only this one, "3", or "svhn/3" of a suite.
    """
    if dry_run:
        estimate_cost(plans(config, folder))
    elif print_commands:
        logging.getLogger("vpjax").setLevel(logging.ERROR)  # print nothing but commands
        words = [w for w in sys.orig_argv if w.lstrip("-").partition("=")[0] != "print_commands"]
        for which in missing(config, folder):
            print(shlex.join([*words, f"--trial={which}"]))
    elif trial:
        run_one(config, folder, trial)
    else:
        for summary in tune(config, folder):
            log.info("\n%s on %s: %s", summary["label"], summary["task"], tune_report.line(summary))
        log.info("files     %s", folder)


def tune(config: ConfigDict, folder: Path) -> list[dict[str, Any]]:
    """Run all that is missing of every task; return the content of each task's tune.json.

    Raises:
        UserError: if no trial of a selection, or no final run of a task, finished.
    """
    out = []
    for plan in plans(config, folder):
        if plan.label:
            log.info("\ntask      %s", plan.label)
        with protected(plan):
            if once(plan, lambda p: p.choice) is None:
                work(plan, plan.selection, "trial")
                once(plan, choose)
            work(plan, plan.finals, "final run")
        out.append(once(plan, tune_report.write))
    if not distributed.index():
        write_report(folder)
    return out


def run_one(config: ConfigDict, folder: Path, which: str) -> None:
    """Run one trial: "3", or "svhn/3" of a suite.

    Raises:
        UserError: if there is no such trial, if it is a final run and the choice cannot be made
            yet, or if it fails other than by diverging.
    """
    task, _, number = which.rpartition("/")
    found = {plan.label: plan for plan in plans(config, folder)}
    if task not in found:
        raise unknown("task of --trial", task, found)
    plan = found[task]
    count = len(plan.selection) + len(config.study.seeds)
    if not (number.isdigit() and int(number) < count):
        raise UserError(f"--trial={which}: {plan.folder} has trials 0 to {count - 1}")
    with protected(plan):
        if int(number) < len(plan.selection):
            trial = plan.selection[int(number)]
        else:
            once(plan, choose)
            trial = plan.finals[int(number) - len(plan.selection)]
        outcome = run(trial)
    if isinstance(outcome, UserError) and (trial.outcome or {}).get("status") != "diverged":
        raise outcome
    if once(plan, lambda p: bool(p.choice and all(t.outcome for t in p.finals))):
        once(plan, tune_report.write)


def missing(config: ConfigDict, folder: Path) -> list[str]:
    """Return the value of --trial for every trial that can run now and has not."""
    out = []
    for plan in plans(config, folder):
        task = f"{plan.label}/" if plan.label else ""
        out += [f"{task}{n}" for n, trial in runnable(plan).items() if trial.outcome is None]
    return out


def runnable(plan: Plan) -> dict[int, Trial]:
    """Return the trials that can run now, by number: first the selection, then the final runs."""
    if plan.choice is None and any(t.outcome is None for t in plan.selection):
        return dict(enumerate(plan.selection))
    choose(plan)
    return dict(enumerate(plan.finals, len(plan.selection)))


@contextlib.contextmanager
def protected(plan: Plan) -> Iterator[None]:
    """Lock the test split until the choice is made, and claim the folder for the plan."""
    data = plan.config.data
    where = {"data_dir": data.dir or None, "classes": data.classes, "holdout": held(plan.config)}
    with lock_split(data.name, data.test, plan.choice_path, **where):
        once(plan, claim_folder)
        yield


def once(plan: Plan, call: Callable[[Plan], Any]) -> Any:
    """Return call(plan), of process 0 where all processes work on every trial together."""
    if plan.config.study.tune.split == "devices":
        return distributed.broadcast_from_zero(lambda: call(plan))
    return call(plan)


def claim_folder(plan: Plan) -> None:
    """Write plan.json, and remove failures of earlier calls that may not occur again.

    Raises:
        UserError: if the folder belongs to another plan.
    """
    with files.lock_folder(plan.folder, wait=True):
        path, config = plan.folder / "plan.json", plan.config
        free = FREE if plan.choice_path.exists() else FREE + UNTIL_CHOICE
        if path.exists():
            lines = configs.differences(config, configs.load(path))
            if changed := [line for line in lines if not line.startswith(free)]:
                raise UserError(
                    f"{plan.folder} belongs to another plan:\n  " + "\n  ".join(changed) + "\nGive "
                    "another --workdir, or the same config to go on."
                )
        configs.save(config, path)
        for trial in [*plan.selection, *(plan.finals if plan.choice else [])]:
            if (trial.outcome or {}).get("status") == "failed":
                (trial.folder / "failed.json").unlink(missing_ok=True)


def work(plan: Plan, todo: Sequence[Trial], what: str) -> None:
    """Run trials until all have an outcome, this process's share first.

    Args:
        what: the kind of trial, for messages.
    """
    index, count = 0, 1
    if plan.config.study.tune.split == "trials":
        index, count = distributed.index(), distributed.count()
    order = [*todo[index::count], *(t for k, t in enumerate(todo) if k % count != index)]
    noticed = -NOTICE
    lines = RunLines([(what, t.folder) for t in order if is_missing(t)])
    with distributed.single_process() if count > 1 else contextlib.nullcontext():
        while waiting := once(plan, lambda _: [i for i, t in enumerate(order) if is_missing(t)]):
            taken = False
            for trial in (order[i] for i in waiting):
                if not once(plan, lambda _, trial=trial: is_missing(trial)):
                    continue  # another process has run it by now
                with lines.one(trial.name) as say:
                    outcome = run(trial)
                    say(ending(outcome))
                taken |= not isinstance(outcome, InUse)
            if not taken and time.monotonic() - noticed > NOTICE:
                names = ", ".join(order[i].name for i in waiting if is_missing(order[i]))
                log.info("waiting for other processes, which run %s", names)
                noticed = time.monotonic()
            if not taken:
                time.sleep(POLL)


def is_missing(trial: Trial) -> bool:
    """Return whether a trial has no outcome yet."""
    return trial.outcome is None


def run(trial: Trial) -> dict[str, Any] | UserError:
    """Run a trial and write down a failure; return InUse if another process is running it."""
    outcome = workdir.read_failure(trial.folder) or try_to_train(trial.config, trial.folder)
    failed = isinstance(outcome, UserError) and not isinstance(outcome, InUse)
    if failed and not distributed.index():
        trial.folder.mkdir(parents=True, exist_ok=True)
        workdir.write_failure(trial.folder, outcome)
    return outcome


def choose(plan: Plan) -> dict[str, Any]:
    """Return the choice; the first time make it, and write it with the table of all trials.

    Raises:
        UserError: if trials are missing, or none finished.
    """
    with files.lock_folder(plan.folder, wait=True):
        if plan.choice is not None:
            return plan.choice
        rows = tune_report.selection_rows(plan)
        if absent := [r["name"] for r in rows if r["status"] == "missing"]:
            some = ", ".join(absent[:10]) + f" and {len(absent) - 10} more" * (len(absent) > 10)
            raise UserError(
                f"{plan.folder}: {len(absent)} of {len(rows)} trials are missing: {some}. "
                "The final runs need them; `tune --print_commands` prints their commands."
            )
        good = [r for r in rows if r["status"] == "finished"]
        if rows and not good:
            first = rows[0]
            raise UserError(
                f"{plan.folder}: none of {len(rows)} trials finished. The first, {first['name']}, "
                f"{first['status']}: {first['reason']}"
            )
        best = max(good, key=lambda r: r["val"]) if good else None
        choice = tune_report.choice_of(plan, best, rows)
        files.write_json(plan.choice_path, choice)
    if best:
        log.info("\nchosen    %s: val %.2f %%", best["name"], best["val"])
        if "doubts" in best:
            log.warning("warning   in the run that was chosen %s", best["doubts"])
    for key, side in choice["edges"].items():
        log.warning("warning   %s is the %s of its grid; try a wider one", key, side)
    return choice
