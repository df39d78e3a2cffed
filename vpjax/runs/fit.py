"""A training run, from config to result:

data -> model and weights -> mesh -> optimiser -> compile -> resume
     -> [ step ... evaluate on val, keep the best, save ] -> test, once -> result
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vpjax.core import distributed, forms
from vpjax.core.errors import UserError
from vpjax.core.files import write_json
from vpjax.core.logs import to_file
from vpjax.core.progress import Progress
from vpjax.core.troubles import explained
from vpjax.data.source import Source
from vpjax.runs import config as configs
from vpjax.runs import course, loggers, model_file, places, summary, workdir
from vpjax.runs.autotune import autotune, needs_autotune
from vpjax.runs.begin import begin
from vpjax.runs.blame import blamed
from vpjax.runs.callbacks import Callback, Several, Start
from vpjax.runs.classes import write_classes
from vpjax.runs.evaluate import diverged, evaluate_metrics
from vpjax.runs.experiment import Experiment, GivenModel, held, prepare
from vpjax.runs.features import with_cached_features
from vpjax.runs.history import Metrics
from vpjax.runs.keep import write_learnt
from vpjax.runs.program import compiled
from vpjax.runs.restore import (
    SEARCHED,
    checkpoint_metadata,
    padded_rows,
    record_of,
    restore_checkpoint,
)
from vpjax.runs.scores import score
from vpjax.runs.search import searched_state
from vpjax.runs.sound_files import check_files
from vpjax.runs.split_files import AnyPredictions
from vpjax.runs.startup import Startup
from vpjax.train import optim, sharding, step
from vpjax.train.checkpoint import Checkpoints
from vpjax.train.early_stopping import EarlyStopping
from vpjax.train.schedules import Plan
from vpjax.train.signals import Stopped, StopSignal

log = logging.getLogger(__name__)

BEGUN = "start.json"  # from what a run began, see `vpjax.runs.begin`
AHEAD = 4  # steps that the host may be ahead of the device

Finish = Callable[[Experiment, step.State, Path, AnyPredictions | None], None]


def fit(
    config: ConfigDict,
    folder: Path,
    startup: Startup | None = None,
    finish: Finish | None = None,
    sources: Mapping[str, Source] | None = None,
    given: GivenModel | None = None,
    extend: bool = False,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train in a folder, or go on with a run that was interrupted; write and return the result.

    Args:
        config: of the run.
        folder: of the run.
        startup: a stopwatch that runs already; None: it starts here.
        finish: called with the experiment, its final state, the folder and the predictions for the
            reported split after the result has been written, for pictures; it may not change the
            result.
        sources: the data by split; None: those that `config.data` names.
        given: the model; None: it is built from the config.
        extend: whether a run in the folder goes on although it is to be longer now.
        callbacks: told what happens, as the loggers of `config.loggers` are.

    Returns:
        What result.json holds: metrics by split ("test_accuracy" ..., percent), number of
        parameters, digests, versions and seconds.

    Raises:
        UserError: for mistakes in config or data, before anything large is compiled.
        Diverged: if a loss or a gradient is infinite or NaN.
        Stopped: after a signal, when everything is saved.
    """
    if extend and config.optim.average_mean:
        raise UserError(
            "optim.average_mean weighs the epochs by the length of the run, so it cannot be made "
            "longer later. Train in another --workdir; this one was not changed."
        )
    with explained(), workdir.lock_workdir(folder) as own, to_file(own / "log.txt"):
        if (result := workdir.open_workdir(folder, config, extend)) is not None:
            log.info("%s is finished: %s", folder, summary.one_line(result))
            return result
        startup = startup or Startup()
        holdout = held(config, folder if workdir.started(folder) else None)
        experiment = prepare(config, startup, sources, given, holdout)
        if config.data.verify:
            check_files(experiment.sources, own)
        experiment = with_cached_features(experiment)
        holdout.record(own)
        if extend:
            workdir.record_extension(folder, config, experiment.plan.steps)
        for split in ("train", "val"):  # here, so that mistakes in the data show before compiling
            if split in experiment.sources:
                experiment.inputs.loader(split)
        startup.record("data")
        if needs_autotune(config):
            experiment = autotune(experiment, folder)
            startup.record("choice")
        summary.log_opening(experiment)
        rows = padded_rows(config, experiment.classes.names)
        told = Several([*loggers.make(config.loggers), *callbacks])
        kinds = folder / "checkpoints"
        with ending(told), blamed(experiment):
            with (
                contextlib.closing(Checkpoints(kinds / "last", rows=rows)) as last,
                contextlib.closing(Checkpoints(kinds / "best", rows=rows)) as best,
            ):
                with StopSignal() as signals:
                    state, early, begun = train(experiment, own, last, best, signals, startup, told)
                state, early, facts = selected_state(experiment, state, early, best)
            state, found = searched_state(experiment, state)
            if found:
                facts |= found
                with contextlib.closing(Checkpoints(kinds / SEARCHED, keep=1, rows=rows)) as kept:
                    kept.discard_after(-1)  # of a run that was shorter, or killed
                    kept.save(state, checkpoint_metadata(experiment, early, startup.seconds))
            facts |= begun | {"startup": startup.facts()}
            if extended := workdir.extensions(own):
                facts["extended"] = extended
            result, predictions = conclude(experiment, state, early, own, startup, **facts)
            told.on_end(result)
        if finish is not None:
            finish(experiment, state, own, predictions)
        return result


def read_begun(folder: Path) -> dict[str, Any]:
    """Return from what a run began, for its result; {} if that was not noted.

    Raises:
        Damaged: if the note is not as a run writes it.
    """
    advice = "Restore it from a copy; or rename it, and the result does not say it."
    return forms.read(folder / BEGUN, {"start?": dict}, advice) or {}


@contextlib.contextmanager
def ending(told: Several) -> Iterator[None]:
    """Tell callbacks that a run was interrupted or failed, where the block raises."""
    try:
        yield
    except BaseException:
        told.on_end(None)
        raise


def train(
    experiment: Experiment,
    folder: Path,
    last: Checkpoints,
    best: Checkpoints,
    signals: StopSignal,
    startup: Startup,
    told: Callback,
) -> tuple[step.State, EarlyStopping, dict[str, Any]]:
    """Run the training loop, from the newest checkpoint to the last step.

    Args:
        experiment: from `prepare`.
        folder: where this process writes.
        last: checkpoints to resume from.
        best: checkpoints of the best evaluations.
        signals: the run stops at the next step after one.
        startup: records how long the first step takes.
        told: callbacks.

    Returns:
        The state after the last step, the record of the best evaluation, and what to say of the
        start.

    Raises:
        Stopped: after a signal, when everything is saved.
        UserError: for an image that cannot be read, or a loss that is infinite or NaN.
    """
    config, plan, mesh = experiment.config, experiment.plan, experiment.mesh
    metric = experiment.metric
    early, start = EarlyStopping(config.train.patience), 0
    if (found := restore_checkpoint(last, experiment.state, record_of(experiment))) is not None:
        state, early = found
        start, startup.earlier = int(state.step), last.restored.get("seconds", 0.0)
        last.discard_after(start)
        best.discard_after(start)
        if needs_best(config) and early.best_step == start:  # killed before it was saved as best
            best.save(state, checkpoint_metadata(experiment, early, startup.seconds))
        log.info("resumed at step %d of %d", start, plan.steps)
        begun = read_begun(folder) if config.train.start else {}
    else:
        state, begun = begin(experiment)
        if begun:
            write_json(folder / BEGUN, begun)
    # Not before it is known that the folder's checkpoints belong to them.
    places.save(config, folder)
    write_classes(experiment.classes._replace(counts=experiment.counts), folder)
    startup.record("open")
    told.on_start(Start(folder, configs.flat(config), start, plan.steps))
    if not plan.steps:
        save_start(experiment, state, folder, early, [best, last], startup.seconds)
    if start >= plan.steps or early.stop:
        return state, early, begun

    alone = distributed.count() == 1  # else saving takes all processes, at the same step
    nothing = f"stopped before step {start + 1}, nothing is lost; run again to go on"
    with signals.at_once(nothing) if alone else contextlib.nullcontext():
        batches = sharding.prefetch(experiment.inputs.loader("train").batches(start), mesh)
        batch = next(batches)
        startup.record("data")
        train_step = compiled(experiment, state, batch)
        startup.record("compile")
    evaluate_at = evaluation_steps(config, plan)
    saved, recent = time.monotonic(), unlogged_steps(last.restored)
    with (
        Metrics(folder, resume_at=start) as metrics,
        Progress(
            plan.steps, start, batch_size=plan.batch_size, stream=distributed.screen()
        ) as progress,
    ):
        for now in range(start + 1, plan.steps + 1):
            state, numbers = train_step(state, experiment.frozen, batch)
            recent.append(numbers)
            done = wait_for_device(recent, now)
            if now == start + 1:
                done = now, jax.block_until_ready(numbers)
                startup.record("step")
                log.debug("start-up  %s", startup)
            if logged := now % config.train.log_every == 0 or now in evaluate_at:
                numbers, recent = average_metrics(recent, now), []
                lr = optim.learning_rate(experiment.rate, state.opt, now - 1)
                metrics.write(now, numbers | {"lr": lr})
                told.on_step(now, numbers | {"lr": float(lr)})
                log.debug("step      %d of %d: %s", now, plan.steps, summary.values(numbers, lr=lr))
                done = now, numbers
            if now in evaluate_at:
                improved = True
                if "val" in experiment.sources:
                    values = evaluate_metrics(experiment, state, "val")
                    named = {f"val_{k}": v for k, v in values.items() if k != "count"}
                    metrics.write(now, named)
                    told.on_evaluation(now, named)
                    done = now, numbers | {f"val_{metric}": values[metric]}
                    log.debug("val       after step %d: %s", now, summary.values(values))
                    improved = early.better(values[metric], now)
                    state = reduce_on_plateau(experiment, state, early)
                metrics.write_csv()
                metadata = checkpoint_metadata(experiment, early, startup.seconds)
                due = bool(distributed.all_max(time.monotonic() - saved >= config.train.save_every))
                if improved and needs_best(config):
                    best.save(state, metadata)
                    best.wait()  # before `last`, from which a killed run goes on
                    due = True  # so that a resumed run never starts before its best checkpoint
                if due or now == plan.steps or early.stop:
                    last.save(state, metadata)
                    saved = time.monotonic()
            if done:
                progress.update(*done)
            if early.stop:
                text = f"val {metric} has not improved in {early.since} evaluations: stopped"
                progress.line(text)
                log.debug("%s", text)
                break
            message = f"stopped at step {now} of {plan.steps}, all saved; run again to go on"
            if asked := distributed.all_max(signals.asked, meet=logged):  # all at the same step
                save_between(experiment, state, early, last, recent, now, startup.seconds)
                raise Stopped(message, asked)
            if now < plan.steps:
                try:
                    with signals.at_once(message) if alone else contextlib.nullcontext():
                        batch = next(batches)
                except (UserError, Stopped):  # an image that cannot be read, or does not come
                    if alone:
                        save_between(experiment, state, early, last, recent, now, startup.seconds)
                    raise
    return state, early, begun


def save_start(
    experiment: Experiment,
    state: step.State,
    folder: Path,
    early: EarlyStopping,
    kinds: Sequence[Checkpoints],
    seconds: float,
) -> None:
    """Evaluate and save a run that trains nothing, at step 0.

    Args:
        experiment: of the run.
        state: that it begins with.
        folder: where this process writes.
        early: the record of evaluations.
        kinds: of checkpoints, each of which gets one.
        seconds: that the run has taken so far.
    """
    with Metrics(folder, resume_at=-1) as metrics:
        if "val" in experiment.sources:
            values = evaluate_metrics(experiment, state, "val")
            metrics.write(0, {f"val_{k}": v for k, v in values.items() if k != "count"})
            early.better(values[experiment.metric], 0)
        metrics.write_csv()
    for checkpoints in kinds:
        checkpoints.save(state, checkpoint_metadata(experiment, early, seconds))


def save_between(
    experiment: Experiment,
    state: step.State,
    early: EarlyStopping,
    last: Checkpoints,
    recent: Sequence[Mapping[str, Any]],
    now: int,
    seconds: float,
) -> None:
    """Save a run that stops, with the metrics that its history does not have yet.

    Args:
        experiment: of the run.
        state: after step `now`.
        early: the record of evaluations.
        last: checkpoints to resume from.
        recent: metrics of the steps since the last line of the history.
        now: the step.
        seconds: that the run has taken so far.

    Raises:
        Diverged: if the run has diverged; it is not saved then.
    """
    average_metrics(recent, now)
    kept = [{k: [str(v.dtype), v.item()] for k, v in m.items()} for m in jax.device_get(recent)]
    last.save(state, checkpoint_metadata(experiment, early, seconds) | {"recent": kept})


def unlogged_steps(meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the metrics that `save_between` has kept; [] of a checkpoint at a logged step."""
    return [{k: np.dtype(d).type(v) for k, (d, v) in m.items()} for m in meta.get("recent", [])]


def needs_best(config: ConfigDict) -> bool:
    """Return whether a run keeps the checkpoint of its best evaluation."""
    return config.train.select == "best" or config.train.test_best


def selected_state(
    experiment: Experiment, state: step.State, early: EarlyStopping, best: Checkpoints
) -> tuple[step.State, EarlyStopping, dict[str, Any]]:
    """Return the state that a run reports (`train.select`), and further results.

    Args:
        experiment: of the run.
        state: after the last step.
        early: the record of evaluations.
        best: checkpoints of the best evaluations.

    Returns:
        The state; the record of evaluations up to the best checkpoint that can be read, which is
        another one than that of the best evaluation only if that is damaged or was deleted; and
        {"test_<metric>_best": percent} with `train.test_best`.
    """
    config = experiment.config.train
    if not needs_best(experiment.config):
        return state, early, {}
    facts: dict[str, Any] = {}
    found = restore_checkpoint(best, experiment.state, record_of(experiment))
    if found is None:
        raise UserError(
            f"{best.folder} holds no checkpoint any more, and the result is to be of the best one. "
            "Put it back from a copy, or train in another --workdir. What is there was not changed."
        )
    chosen, then = found
    if then.best_step != early.best_step:
        log.warning(
            "warning   the best checkpoint, of step %d, is damaged or was deleted: the result is "
            "of the best one before it, of step %d",
            early.best_step,
            then.best_step,
        )
        facts["lost_best_step"] = early.best_step
    if config.test_best:
        best_test = evaluate_metrics(experiment, chosen, "test")
        facts[f"test_{experiment.metric}_best"] = best_test[experiment.metric]
    return (chosen if config.select == "best" else state), then, facts


def conclude(
    experiment: Experiment,
    state: step.State,
    early: EarlyStopping,
    folder: Path,
    clock: Startup,
    **facts: Any,
) -> tuple[dict[str, Any], AnyPredictions | None]:
    """Evaluate val and test splits; write and return the result, return the last predictions too.

    Args:
        experiment: of the run.
        state: the one that is reported.
        early: the record of the best evaluation.
        folder: where this process writes.
        clock: knows how long the run has taken.
        facts: further values of the result.
    """
    result = {"status": "finished", "step": int(state.step)}
    splits = [s for s in ("val", "test") if s in experiment.sources]
    scores, predictions = score(experiment, state, splits, folder, step=int(state.step))
    for split, values in scores.items():
        result |= {f"{split}_{k}": v for k, v in values.items()}
    if "val" in experiment.sources:
        result |= {f"best_val_{experiment.metric}": early.best, "best_val_step": early.best_step}
    result |= summary.result_facts(experiment) | facts
    if found := course.faults_of(experiment, folder):
        result["loss_faults"] = found
        log.warning("warning   %s: %s", "; ".join(found), course.ADVICE)
    numbers, file = summary.metrics_of(result), folder / model_file.FILE
    classes = experiment.classes._replace(counts=experiment.counts)
    write_learnt(experiment.config, classes, experiment, state, numbers, file)
    result["seconds"] = clock.seconds
    write_json(folder / "result.json", result)
    log.info("%s", summary.one_line(result))
    return result, predictions


def wait_for_device(recent: list[dict[str, jax.Array]], now: int) -> tuple[int, dict] | None:
    """Wait until the device is at most `AHEAD` steps behind the host.

    Else the host would queue steps without limit: their batches fill the memory, a signal is
    handled late, and the progress shown is not that of the device. The device never waits, as it
    has steps left when the host goes on.

    Args:
        recent: the metrics of the steps since the last line of the history; those of earlier
            steps have been read.
        now: the step that was started last.

    Returns:
        The newest step that is certainly done and its metrics; None if it is not in `recent`.
    """
    if len(recent) <= AHEAD:
        return None
    return now - AHEAD, jax.block_until_ready(recent[-1 - AHEAD])


def evaluation_steps(config: ConfigDict, plan: Plan) -> set[int]:
    """Return the steps after which to evaluate and save; the last is one of them."""
    every = max(1, round(config.train.eval_every * plan.steps_per_epoch))
    return {*range(every, plan.steps, every), plan.steps}


def reduce_on_plateau(
    experiment: Experiment, state: step.State, early: EarlyStopping
) -> step.State:
    """Return the state with a lower learning rate, if the schedule is "plateau" and it is one.

    Args:
        experiment: of the run.
        state: after an evaluation.
        early: the record of that evaluation.
    """
    config = experiment.config.optim
    if config.schedule != "plateau" or not early.plateau(config.plateau_patience):
        return state
    log.debug(
        "val %s has not improved since step %d: lowering the learning rate",
        experiment.metric,
        early.best_step,
    )
    return dataclasses.replace(state, opt=optim.reduce_lr(state.opt, config.plateau_factor))


def average_metrics(recent: list[dict[str, jax.Array]], now: int) -> dict[str, float]:
    """Return metrics of several steps, averaged over their images.

    Args:
        recent: metrics of consecutive steps, on the device.
        now: the last of these steps.

    Raises:
        Diverged: if a loss or a gradient is infinite or NaN.
    """
    recent = jax.device_get(recent)
    for at, numbers in enumerate(recent, start=now - len(recent) + 1):
        for key in ("loss", "grad_norm"):
            if not np.isfinite(numbers[key]):
                raise diverged(f"the {key} is {numbers[key]}", at)
    images = [step.pop("images") for step in recent]
    average = lambda k: float(np.average([step[k] for step in recent], weights=images))  # noqa: E731
    return {k: average(k) for k in recent[0]} if recent else {}
