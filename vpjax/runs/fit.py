"""A run, from config to result. It reads as the experiment:

data -> model and weights -> mesh -> optimiser -> compile -> resume
     -> [ step ... evaluate on val, keep the best, save ] -> test, once -> result
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vpjax.core import distributed, files, logs
from vpjax.core.errors import UserError
from vpjax.core.progress import Progress
from vpjax.runs import autotune, summary, workdir
from vpjax.runs import config as configs
from vpjax.runs.experiment import Experiment, diverged, evaluate_metrics, prepare, split_batches
from vpjax.runs.features import with_cached_features
from vpjax.runs.history import Metrics
from vpjax.runs.program import compiled
from vpjax.runs.restore import checkpoint_metadata, reopen_run, restore_checkpoint
from vpjax.runs.scores import as_table, margin_of, score
from vpjax.runs.startup import Startup
from vpjax.train import optim, sharding, step
from vpjax.train.checkpoint import Checkpoints
from vpjax.train.early_stopping import EarlyStopping
from vpjax.train.signals import Stopped, StopSignal
from vpjax.weights import google

log = logging.getLogger(__name__)

Finish = Callable[[Experiment, step.State, Path], None]

AHEAD = 4  # steps that the host may be ahead of the device


def fit(
    config: ConfigDict,
    folder: Path,
    startup: Startup | None = None,
    finish: Finish | None = None,
) -> dict[str, Any]:
    """Train, or go on training, in `folder`; return and write the result.

    Args:
        startup: the clock of the time before the first step; None: it starts now.
        finish: called with the experiment, the reported state and the folder once the result is
            written, in every process; see `vpjax.report.finish.draw_results`.

    Raises:
        UserError: before the first compile, for what a user got wrong.
        Stopped: on a signal.
    """
    with workdir.lock_workdir(folder) as own, logs.to_file(own / "log.txt"):
        if (result := workdir.open_workdir(folder, config)) is not None:
            log.info("%s is finished: %s", folder, summary.one_line(result))
            return result
        begin, startup = time.perf_counter(), startup or Startup()
        experiment = with_cached_features(prepare(config, startup))
        for split in ("train", "val"):  # what is wrong with the images shows here
            if split in experiment.sources:
                split_batches(experiment, split)
        startup.lap("data")
        if autotune.needs_autotune(config):
            experiment = autotune.autotune(experiment, folder)
            startup.lap("choice")
        configs.save(config, own / "config.json")
        summary.opening(experiment)
        with (
            contextlib.closing(Checkpoints(folder / "checkpoints" / "last")) as last,
            contextlib.closing(Checkpoints(folder / "checkpoints" / "best")) as best,
            StopSignal() as signals,
        ):
            state, early = train(experiment, own, last, best, signals, startup)
            state, facts = selected(experiment, state, best)
        facts["startup"] = startup.facts()
        result = conclude(experiment, state, early, own, time.perf_counter() - begin, **facts)
        if finish is not None:
            finish(experiment, state, own)
        return result


def train(
    experiment: Experiment,
    folder: Path,
    last: Checkpoints,
    best: Checkpoints,
    signals: StopSignal,
    startup: Startup,
) -> tuple[step.State, EarlyStopping]:
    """The loop: steps from wherever the newest checkpoint is to the end of the plan."""
    config, plan, mesh = experiment.config, experiment.plan, experiment.mesh
    state, early, start = experiment.state, EarlyStopping(config.train.patience), 0
    if (found := restore_checkpoint(experiment, last)) is not None:
        state, early = found
        start = int(state.step)
        last.discard_after(start)
        best.discard_after(start)
        log.info("resumed at step %d of %d", start, plan.steps)
    startup.lap("open")
    if start >= plan.steps or early.stop:
        return state, early

    batches = sharding.prefetch(split_batches(experiment, "train").batches(start), mesh)
    batch = next(batches)
    startup.lap("data")
    train_step = compiled(experiment, state, batch)
    startup.lap("compile")
    evaluate_at = evaluations(config, plan)
    saved, recent = time.monotonic(), []
    with (
        Metrics(folder, resume_at=start) as metrics,
        Progress(
            plan.steps, start, batch_size=plan.batch_size, stream=distributed.screen()
        ) as progress,
    ):
        for now in range(start + 1, plan.steps + 1):
            state, numbers = train_step(state, experiment.frozen, batch)
            recent.append(numbers)
            done = steady(recent, now)
            if now == start + 1:
                done = now, jax.block_until_ready(numbers)
                startup.lap("step")
                log.info("start-up  %s", startup)
            if noted := now % config.train.log_every == 0 or now in evaluate_at:
                numbers, recent = mean(recent, now), []
                lr = optim.learning_rate(experiment.rate, state.opt, now - 1)
                metrics.write(now, numbers | {"lr": lr})
                done = now, numbers
            if now in evaluate_at:
                improved = True
                if "val" in experiment.sources:
                    values = evaluate_metrics(experiment, state, "val")
                    metrics.write(now, {f"val_{k}": v for k, v in values.items() if k != "count"})
                    done = now, numbers | {"val_accuracy": values["accuracy"]}
                    improved = early.better(values["accuracy"], now)
                    state = slowed(experiment, state, early)
                metrics.write_csv()
                note = checkpoint_metadata(experiment, early)
                due = bool(distributed.all_max(time.monotonic() - saved >= config.train.save_every))
                if improved and (config.train.select == "best" or config.train.test_best):
                    best.save(state, note)
                    due = True  # so that a resumed run never goes back behind its best
                if due or now == plan.steps or early.stop:
                    last.save(state, note)
                    saved = time.monotonic()
            if done:
                progress.update(*done)
            if early.stop:
                progress.line(f"no better val accuracy in {early.since} evaluations: stopped")
                break
            if asked := distributed.all_max(signals.asked, meet=noted):  # all stop at one step
                mean(recent, now)  # what has diverged is not saved
                last.save(state, checkpoint_metadata(experiment, early))
                message = f"stopped at step {now} of {plan.steps}; run again to go on"
                raise Stopped(message, asked)
            if now < plan.steps:
                try:
                    batch = next(batches)
                except UserError:  # an image that cannot be read
                    if distributed.count() == 1:  # others know nothing of it, and all would save
                        mean(recent, now)
                        last.save(state, checkpoint_metadata(experiment, early))
                    raise
    return state, early


def selected(
    experiment: Experiment, state: step.State, best: Checkpoints
) -> tuple[step.State, dict[str, float]]:
    """Returns the weights a run reports, its last or its best, and what else is to be reported."""
    config = experiment.config.train
    if config.select != "best" and not config.test_best:
        return state, {}
    chosen, facts = restore_checkpoint(experiment, best)[0], {}
    if config.test_best:
        facts["test_accuracy_best"] = evaluate_metrics(experiment, chosen, "test")["accuracy"]
    return chosen if config.select == "best" else state, facts


def conclude(
    experiment: Experiment,
    state: step.State,
    early: EarlyStopping,
    folder: Path,
    seconds: float,
    **facts: Any,
) -> dict[str, Any]:
    """Returns and writes the result of training that took `seconds`, with more `facts` about it."""
    begin = time.perf_counter()
    result = final_result(experiment, state, early, folder) | facts
    result["seconds"] = round(seconds + time.perf_counter() - begin, 2)
    files.write_json(folder / "result.json", result)
    log.info("%s", summary.one_line(result))
    return result


def final_result(
    experiment: Experiment, state: step.State, early: EarlyStopping, folder: Path
) -> dict:
    """Reads the test split, once, and returns the result."""
    config = experiment.config
    result = {"status": "finished", "step": int(state.step)}
    splits = [s for s in ("val", "test") if s in experiment.sources]
    for split, values in score(experiment, state, splits, folder, step=int(state.step)).items():
        result |= {f"{split}_{k}": v for k, v in values.items()}
    if "val" in experiment.sources:
        result |= {"best_val_accuracy": early.best, "best_val_step": early.best_step}
    result |= summary.facts(experiment)
    if config.export:
        export(experiment, state, Path(config.export))
    return result


def evaluate_run(folder: Path) -> dict[str, Any]:
    """Restores a run and evaluates its test split, or else val; see `vpjax.runs.scores` for its files.

    Raises: UserError as `reopened` does, or if the run has no such split.
    """
    experiment, state = reopen_run(folder)
    split = "test" if "test" in experiment.sources else "val"
    if split not in experiment.sources:
        raise UserError("the run has neither a test nor a val split to evaluate")
    facts = {"step": int(state.step), "checkpoint": experiment.config.train.select}
    with workdir.own_folder(folder) as own:
        values = score(experiment, state, [split], own, **facts)[split]
    log.info("\n%s\n", as_table(split, values, margin_of(experiment)))
    return facts | {f"{split}_{k}": v for k, v in values.items()}


def steady(recent: list[dict[str, jax.Array]], now: int) -> tuple[int, dict] | None:
    """Waits until the device is `AHEAD` steps behind at most; returns the step it has done last.

    Without this the host would queue up steps without end: their batches fill the memory, a signal
    is answered late, and what is shown is not how far the device is. The device never waits, as it
    has steps left when the host goes on. `recent` are the numbers of the steps since the last line
    of the history; those before have been read. None: of these none is that old.
    """
    if len(recent) <= AHEAD:
        return None
    return now - AHEAD, jax.block_until_ready(recent[-1 - AHEAD])


def evaluations(config: ConfigDict, plan: optim.Plan) -> set[int]:
    """Returns the steps after which to evaluate and save; the last is one of them."""
    every = max(1, round(config.train.eval_every * plan.steps_per_epoch))
    return {*range(every, plan.steps, every), plan.steps}


def slowed(experiment: Experiment, state: step.State, early: EarlyStopping) -> step.State:
    """Returns the state after an evaluation: on a plateau, where asked, with a lower rate."""
    config = experiment.config.optim
    if config.schedule != "plateau" or not early.plateau(config.plateau_patience):
        return state
    log.info("no better val accuracy since step %d: lower learning rate", early.best_step)
    return dataclasses.replace(state, opt=optim.reduce(state.opt, config.plateau_factor))


def mean(recent: list[dict[str, jax.Array]], now: int) -> dict[str, float]:
    """Reads the numbers of the steps since the last line of the history, averaged over images.

    Raises: UserError if a loss or a gradient is no number any more.
    """
    recent = jax.device_get(recent)
    for at, numbers in enumerate(recent, start=now - len(recent) + 1):
        for key in ("loss", "grad_norm"):
            if not np.isfinite(numbers[key]):
                raise diverged(f"the {key} is {numbers[key]}", at)
    images = [step.pop("images") for step in recent]
    average = lambda k: float(np.average([step[k] for step in recent], weights=images))  # noqa: E731
    return {k: average(k) for k in recent[0]} if recent else {}


def export(experiment: Experiment, state: step.State, path: Path) -> None:
    """Writes the backbone as a Google npz file."""
    values = sharding.to_host(experiment.frozen | state.trainable)
    if distributed.index():
        return
    mine = {n.removeprefix("backbone/"): v for n, v in values.items() if n.startswith("backbone/")}
    path.parent.mkdir(parents=True, exist_ok=True)
    google.save(path, mine)
    log.info("wrote the backbone to %s (%d arrays)", path, len(mine))
