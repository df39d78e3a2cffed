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

from vpjax import config as configs
from vpjax import report
from vpjax.draw.pictures import at_the_end
from vpjax.errors import UserError
from vpjax.features import as_they_are, on_features
from vpjax.scores import as_table, margin_of, score
from vpjax.train import optim, sharding, step, workdir
from vpjax.train.checkpoint import Checkpoints
from vpjax.train.early import Early
from vpjax.train.experiment import (
    Experiment,
    diverged,
    measure,
    on_device,
    prepare,
    rows,
)
from vpjax.train.log import Metrics, Progress
from vpjax.train.restore import record, reopened, restored
from vpjax.train.stop import Stopped, StopSignal
from vpjax.weights import google

log = logging.getLogger(__name__)


def fit(config: ConfigDict, folder: Path) -> dict[str, Any]:
    """Trains, or goes on training, in `folder`; returns and writes the result.

    Raises: UserError, before the first compile, for what a user got wrong; Stopped on a signal.
    """
    with workdir.claim(folder), report.to_file(folder / "log.txt"):
        workdir.check_config(folder, config)
        if (result := workdir.read_result(folder)) is not None:
            log.info("%s is finished: %s", folder, report.one_line(result))
            return result
        begin = time.perf_counter()
        experiment = on_features(prepare(config))
        for split in ("train", "val"):  # what is wrong with the images shows here
            if split in experiment.sources:
                rows(experiment, split)
        configs.save(config, folder / "config.json")
        report.opening(experiment)
        with (
            contextlib.closing(Checkpoints(folder / "checkpoints" / "last")) as last,
            contextlib.closing(Checkpoints(folder / "checkpoints" / "best")) as best,
            StopSignal() as signals,
        ):
            state, early = train(experiment, folder, last, best, signals)
            state, facts = selected(experiment, state, best)
        return conclude(experiment, state, early, folder, time.perf_counter() - begin, **facts)


def train(
    experiment: Experiment, folder: Path, last: Checkpoints, best: Checkpoints, signals: StopSignal
) -> tuple[step.State, Early]:
    """The loop: steps from wherever the newest checkpoint is to the end of the plan."""
    config, plan, mesh = experiment.config, experiment.plan, experiment.mesh
    state, early, start = experiment.state, Early(config.train.patience), 0
    if (found := restored(experiment, last)) is not None:
        state, early = found
        start = int(state.step)
        last.discard_after(start)
        best.discard_after(start)
        log.info("resumed at step %d of %d", start, plan.steps)
    if start >= plan.steps or early.stop:
        return state, early

    batches = sharding.prefetch(rows(experiment, "train").batches(start), mesh)
    batch = next(batches)
    train_step = compiled(experiment, state, batch)
    evaluate_at = evaluations(config, plan)
    saved, recent = time.monotonic(), []
    with (
        Metrics(folder, resume_at=start) as metrics,
        Progress(plan.steps, start, batch_size=plan.batch_size) as progress,
    ):
        for now in range(start + 1, plan.steps + 1):
            state, numbers = train_step(state, experiment.frozen, batch)
            recent.append(numbers)
            if now % config.train.log_every == 0 or now in evaluate_at:
                numbers, recent = mean(recent, now), []
                lr = optim.learning_rate(experiment.rate, state.opt, now - 1)
                metrics.write(now, numbers | {"lr": lr})
            if now in evaluate_at:
                improved = True
                if "val" in experiment.sources:
                    values = measure(experiment, state, "val")
                    metrics.write(now, {f"val_{k}": v for k, v in values.items() if k != "count"})
                    numbers = numbers | {"val_accuracy": values["accuracy"]}
                    improved = early.better(values["accuracy"], now)
                    state = slowed(experiment, state, early)
                metrics.write_csv()
                note = record(experiment, early)
                due = time.monotonic() - saved >= config.train.save_every
                if improved and (config.train.select == "best" or config.train.test_best):
                    best.save(state, note)
                    due = True  # so that a resumed run never goes back behind its best
                if due or now == plan.steps or early.stop:
                    last.save(state, note)
                    saved = time.monotonic()
            progress.update(now, numbers)
            if early.stop:
                progress.line(f"no better val accuracy in {early.since} evaluations: stopped")
                break
            if signals.asked:
                mean(recent, now)  # what has diverged is not saved
                last.save(state, record(experiment, early))
                message = f"stopped at step {now} of {plan.steps}; run again to go on"
                raise Stopped(message, signals.asked)
            if now < plan.steps:
                try:
                    batch = next(batches)
                except UserError:  # an image that cannot be read
                    mean(recent, now)
                    last.save(state, record(experiment, early))
                    raise
    return state, early


def selected(
    experiment: Experiment, state: step.State, best: Checkpoints
) -> tuple[step.State, dict[str, float]]:
    """Returns the weights a run reports, its last or its best, and what else is to be reported."""
    config = experiment.config.train
    if config.select != "best" and not config.test_best:
        return state, {}
    chosen, facts = restored(experiment, best)[0], {}
    if config.test_best:
        facts["test_accuracy_best"] = measure(experiment, chosen, "test")["accuracy"]
    return chosen if config.select == "best" else state, facts


def conclude(
    experiment: Experiment,
    state: step.State,
    early: Early,
    folder: Path,
    seconds: float,
    **facts: Any,
) -> dict[str, Any]:
    """Returns and writes the result of training that took `seconds`, with more `facts` about it."""
    begin = time.perf_counter()
    result = finish(experiment, state, early, folder) | facts
    result["seconds"] = round(seconds + time.perf_counter() - begin, 2)
    workdir.write_json(folder / "result.json", result)
    log.info("%s", report.one_line(result))
    at_the_end(experiment, state, folder)
    return result


def finish(experiment: Experiment, state: step.State, early: Early, folder: Path) -> dict:
    """Reads the test split, once, and returns the result."""
    config = experiment.config
    result = {"status": "finished", "step": int(state.step)}
    splits = [s for s in ("val", "test") if s in experiment.sources]
    for split, values in score(experiment, state, splits, folder, step=int(state.step)).items():
        result |= {f"{split}_{k}": v for k, v in values.items()}
    if "val" in experiment.sources:
        result |= {"best_val_accuracy": early.best, "best_val_step": early.best_step}
    result |= report.facts(experiment)
    if config.export:
        export(experiment, state, Path(config.export))
    if config.get("curves", True):
        report.draw_curves(folder)
    return result


def evaluate_run(folder: Path) -> dict[str, Any]:
    """Restores a run and evaluates its test split, or else val; see `vpjax.scores` for its files.

    Raises: UserError as `reopened` does, or if the run has no such split.
    """
    experiment, state = reopened(folder)
    split = "test" if "test" in experiment.sources else "val"
    if split not in experiment.sources:
        raise UserError("the run has neither a test nor a val split to evaluate")
    facts = {"step": int(state.step), "checkpoint": experiment.config.train.select}
    values = score(experiment, state, [split], folder, **facts)[split]
    log.info("\n%s\n", as_table(split, values, margin_of(experiment)))
    return facts | {f"{split}_{k}": v for k, v in values.items()}


def training_step(experiment: Experiment) -> Callable:
    """Returns the training step of an experiment, see `vpjax.train.step.make_train_step`."""
    config, features = experiment.config, experiment.features
    to_input = on_device(config, experiment.preset, experiment.image_size, train=True)
    return step.make_train_step(
        features.graph if features else experiment.parts.graph,
        experiment.optimiser,
        as_they_are if features else to_input,
        experiment.plan.steps,
        config.remat,
        experiment.criterion,
        config.remat_segments,
        config.train.accumulate,
    )


def compiled(experiment: Experiment, state: step.State, batch: dict) -> Callable:
    """Compiles the training step, and says what that took and what a step will need."""
    begin = time.perf_counter()
    out = training_step(experiment).lower(state, experiment.frozen, batch).compile()
    # The compiler counts the parts of a batch that is worked through in several as one.
    counted = experiment.plan.batch_size // experiment.config.train.accumulate
    report.cost(out, time.perf_counter() - begin, counted)
    return out


def evaluations(config: ConfigDict, plan: optim.Plan) -> set[int]:
    """Returns the steps after which to evaluate and save; the last is one of them."""
    every = max(1, round(config.train.eval_every * plan.steps_per_epoch))
    return {*range(every, plan.steps, every), plan.steps}


def slowed(experiment: Experiment, state: step.State, early: Early) -> step.State:
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
    values = experiment.frozen | state.trainable
    mine = {n.removeprefix("backbone/"): v for n, v in values.items() if n.startswith("backbone/")}
    path.parent.mkdir(parents=True, exist_ok=True)
    google.save(path, mine)
    log.info("wrote the backbone to %s (%d arrays)", path, len(mine))
