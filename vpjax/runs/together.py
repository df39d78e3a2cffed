"""Runs of equal shapes, trained at once.

    one by one    state, numbers = step(state, frozen, batch)              K times
    together      states, numbers = vmap(step)(states, frozen, batches)    once

They may differ in their seed and in plain numbers of the optimiser, such as learning rate and
weight decay. Seeds differ in what is drawn at the start, in the order of images, and in dropout; so
states and batches are stacked, and frozen numbers only where they are not the same. Where seeds are
equal so are batches, and whatever the backbone does before anything learnt enters is done once: of
a linear probe, all of it.

Every run has the folder, the files and, to rounding, the numbers it has alone. Checkpoints are
those of single runs too. A group that was interrupted goes on as a group, to the same numbers bit
for bit; what was begun otherwise goes on by itself.

Whether this is faster depends on model and device; see docs/ablations.md and docs/protocol.md.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vpjax.core import logs
from vpjax.models import factory
from vpjax.runs import summary
from vpjax.runs import config as configs
from vpjax.core.errors import UserError
from vpjax.runs.startup import Startup
from vpjax.core import files
from vpjax.runs import fit, workdir
from vpjax.train import optim, sharding
from vpjax.train.checkpoint import Checkpoints
from vpjax.runs.experiment import Experiment, split_batches
from vpjax.core.progress import Progress
from vpjax.runs.history import Metrics
from vpjax.runs.members import FREE, Member, Single, kin, make_members, resume
from vpjax.runs.program import training_step
from vpjax.runs.restore import checkpoint_metadata
from vpjax.train.step import State
from vpjax.train.signals import StopSignal, Stopped

log = logging.getLogger(__name__)


def fit_together(runs: Sequence[Single]) -> list[dict[str, Any] | UserError]:
    """Trains runs that are kin (see `kin`); returns the result of each, or why it failed.

    What is finished is not run again.
    Raises: ValueError if runs are not kin; Stopped on a signal, everything saved.
    """
    first = runs[0][0]
    for config, _ in runs:
        lines = configs.differences(first, config)
        others = [d for d in lines if d.partition(":")[0] not in FREE]
        if others or kin(config) != kin(first):
            raise ValueError(f"runs cannot train together; they differ in {others or lines}")
    waiting = [run for run in runs if workdir.read_result(run[1]) is None]
    if kin(first) is None or not _left(waiting, runs):
        waiting = [run for run in waiting if not _begun(run[1])]
    if len(waiting) < 2 or kin(first) is None:
        waiting = []
    found = {
        folder: _alone(config, folder) for config, folder in runs if (config, folder) not in waiting
    }
    if waiting:
        try:
            found |= _group(waiting)
        except UserError as e:  # before training: it holds for all
            found |= {folder: e for _, folder in waiting}
    return [found[folder] for _, folder in runs]


def _begun(folder: Path) -> bool:
    return any(folder.glob("checkpoints/*/[0-9]*"))


def _left(waiting: Sequence[Single], runs: Sequence[Single]) -> bool:
    """Whether these are what is left of one interrupted group."""
    groups = {_partners(folder) for _, folder in waiting}
    group, finished = next(iter(groups), None), {f.absolute() for _, f in runs}
    finished -= {f.absolute() for _, f in waiting}
    return (
        len(groups) == 1
        and group is not None
        and group - finished == {f.absolute() for _, f in waiting}
    )


def _partners(folder: Path) -> frozenset[Path] | None:
    """Returns the folders of the group that a run began in, or None."""
    path = folder / "group.json"
    if not path.exists():
        return None
    here = folder.absolute()
    return frozenset(Path(os.path.normpath(here / p)) for p in json.loads(path.read_text()))


def _alone(config: Any, folder: Path) -> dict[str, Any] | UserError:
    try:
        return workdir.read_failure(folder) or fit.fit(config, folder)
    except UserError as e:
        return e


def _group(singles: Sequence[Single]) -> dict[Path, dict[str, Any] | UserError]:
    """Trains runs together; returns results and failures by folder."""
    begin, startup = time.perf_counter(), Startup()
    with contextlib.ExitStack() as open_files:
        for config, folder in singles:
            open_files.enter_context(files.lock_folder(folder))
            workdir.check_config(folder, config)
        for config, folder in singles:
            configs.save(config, folder / "config.json")
            others = [os.path.relpath(f, folder) for _, f in singles]
            files.write_json(folder / "group.json", others)
        with contextlib.ExitStack() as training:
            for _, folder in singles:
                training.enter_context(logs.to_file(folder / "log.txt"))
            members = make_members(singles, training)
            startup.lap("model")
            summary.opening(members[0].experiment)
            log.info("together  %d runs, from %s on", len(singles), members[0].folder.name)
            start = resume(members)
            for run in members:
                kept = start if run.live else None
                run.metrics = training.enter_context(Metrics(run.folder, resume_at=kept))
            signals = training.enter_context(StopSignal())
            if any(run.live for run in members):
                _train(members, start, signals, startup)
        seconds = (time.perf_counter() - begin) / len(members)
        facts = {"together": len(members), "startup": startup.facts()}
        return {run.folder: _conclude(run, members, seconds, facts) for run in members}


def _train(members: list[Member], start: int, signals: StopSignal, startup: Startup) -> None:
    """The loop of `fit.train`, for a group."""
    experiments = [run.experiment for run in members]
    config, plan, mesh = experiments[0].config, experiments[0].plan, experiments[0].mesh
    if start:
        log.info("resumed at step %d of %d", start, plan.steps)
    batches = sharding.prefetch(stacked(experiments, start), mesh)
    batch = next(batches)
    startup.lap("data")
    states, frozen, step = compiled(experiments, batch)
    startup.lap("compile")
    one_seed = _one_seed(experiments)
    apart = jax.jit(lambda states: [part(states, k, one_seed) for k in range(len(members))])
    evaluate_at = fit.evaluations(config, plan)
    saved, recent, shown = time.monotonic(), [], {}
    with Progress(plan.steps, start, batch_size=plan.batch_size * len(members)) as progress:
        for now in range(start + 1, plan.steps + 1):
            states, numbers = step(states, frozen, batch)
            recent.append(numbers)
            fit.steady(recent, now)
            if now == start + 1:
                jax.block_until_ready(numbers)
                startup.lap("step")
                log.info("start-up  %s", startup)
            stop = bool(signals.asked)
            if now % config.train.log_every == 0 or now in evaluate_at or stop:
                shown, recent = _note(members, jax.device_get((recent, states.opt[-1])), now), []
            if now in evaluate_at or stop:
                due = time.monotonic() - saved >= config.train.save_every
                saved = time.monotonic() if due else saved
                for run, state in zip(members, apart(states), strict=True):
                    if run.live and now in evaluate_at:
                        run.assess(state, now, save=due)
                    if stop and (run.live or run.state is not None):
                        run.last.save(run.state or state, checkpoint_metadata(run.experiment, run.early))
            progress.update(now, shown)
            if stop:
                message = f"stopped at step {now} of {plan.steps}; run again to go on"
                raise Stopped(message, signals.asked)
            if not any(run.live for run in members):
                break
            if now < plan.steps:
                batch = next(batches)


def _note(members: list[Member], numbers: tuple[list[dict], Any], now: int) -> dict[str, float]:
    """Writes every run's mean of the last steps; returns the mean of these over runs."""
    recent, rates = numbers
    cut = lambda tree, k: jax.tree.map(lambda x: x[k], tree)  # noqa: E731
    found = [
        run.note([cut(n, k) for n in recent], (cut(rates, k),), now)
        for k, run in enumerate(members)
        if run.live
    ]
    found = [f for f in found if f]
    return {n: float(np.mean([f[n] for f in found])) for n in found[0]} if found else {}


def compiled(experiments: list[Experiment], batch: dict) -> tuple[State, dict, Callable]:
    """Returns the stacked states, the frozen numbers, and the step of all runs, compiled.

    The number of the step is one for all, and so is the key where seeds are equal.
    """
    first, one_seed = experiments[0], _one_seed(experiments)
    axes = State(step=None, trainable=0, stats=0, opt=0, key=None if one_seed else 0)
    states = jax.jit(lambda *s: _stacked_states(axes, s))(*(e.state for e in experiments))
    frozen, frozen_axes = {}, {}
    for name, value in first.frozen.items():
        values = [e.frozen[name] for e in experiments]
        alike = all(v is value or bool((v == value).all()) for v in values)
        frozen[name], frozen_axes[name] = (value, None) if alike else (jnp.stack(values), 0)
    states = sharding.replicate(states, first.mesh)
    split = factory.split_over(first.config, first.mesh) is not None
    frozen = sharding.place(frozen, first.mesh, {}, frozen=split)
    numbers, one = _step_of_one(experiments)
    every = jax.vmap(
        one, in_axes=(0, axes, frozen_axes, None if one_seed else 1), out_axes=(axes, 0)
    )
    step = jax.jit(lambda *now: every(numbers, *now), donate_argnums=0)
    begin = time.perf_counter()
    out = step.lower(states, frozen, batch).compile()
    counted = first.plan.batch_size // first.config.train.accumulate * len(experiments)
    summary.cost(out, time.perf_counter() - begin, counted)
    return states, frozen, out


def _step_of_one(experiments: list[Experiment]) -> tuple[dict[str, jax.Array], Callable]:
    """Returns the numbers that differ among runs, and the step of a run with such numbers."""
    options = [e.config.optim for e in experiments]
    names = [n for n in optim.NUMBERS if len({o[n] for o in options}) > 1]
    numbers = {n: jnp.asarray([o[n] for o in options], jnp.float32) for n in names}
    # The one whose parameters decay decides that the optimiser has a decay; elsewhere it is by 0.
    first = max(experiments, key=lambda e: e.config.optim.weight_decay)

    def one(numbers, state, frozen, batch):
        made = first
        if numbers:
            told = first.config.optim, first.parts.trainable, first.plan, first.config.parity
            made = first._replace(optimiser=optim.make_optimiser(*told, numbers)[0])
        return training_step(made).__wrapped__(state, frozen, batch)  # before jit

    return numbers, one


def _stacked_states(axes: State, states: Sequence[State]) -> State:
    join = lambda *values: jnp.stack(values)  # noqa: E731
    stack = {n: jax.tree.map(join, *(getattr(s, n) for s in states)) for n in vars(axes)}
    first = {n: getattr(states[0], n) for n, axis in vars(axes).items() if axis is None}
    return State(**stack | first)


def part(states: State, k: int, one_seed: bool) -> State:
    """Returns the state of a run of the group."""
    cut = lambda tree: jax.tree.map(lambda x: x[k], tree)  # noqa: E731
    key = states.key if one_seed else cut(states.key)
    return State(states.step, cut(states.trainable), cut(states.stats), cut(states.opt), key)


def _one_seed(experiments: list[Experiment]) -> bool:
    return len({e.config.seed for e in experiments}) == 1


def stacked(experiments: list[Experiment], start: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Batches of all runs: B ... where seeds are equal, else B K ...

    The first axis is what devices share, as ever.
    """
    if _one_seed(experiments):
        yield from split_batches(experiments[0], "train").batches(start)
        return
    for own in zip(*(split_batches(e, "train").batches(start) for e in experiments), strict=True):
        yield {name: np.stack([batch[name] for batch in own], axis=1) for name in own[0]}


def _conclude(
    run: Member, members: list[Member], seconds: float, known: dict[str, Any]
) -> dict[str, Any] | UserError:
    """Returns and writes the result of one run, as `fit` does."""
    if run.error is not None:
        return run.error
    with logs.to_file(run.folder / "log.txt"):
        e, best = run.experiment, Checkpoints(run.folder / "checkpoints" / "best")
        for other in members:  # the test split is read once for all
            e.loaders.update(
                {k: v for k, v in other.experiment.loaders.items() if k not in e.loaders}
            )
        try:
            with contextlib.closing(best):
                state, facts = fit.selected(e, run.state, best)
            return fit.conclude(e, state, run.early, run.folder, seconds, **facts | known)
        except UserError as error:
            return error
