"""The runs of a group that trains at once: how each is prepared, kept, and brought back.

What runs share exists once: the frozen backbone, the images, and all but the optimiser's numbers
where their seeds are the same.
"""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpjax.runs import config as configs
from vpjax.runs.autotune import needs_autotune
from vpjax.core.errors import Diverged, UserError
from vpjax.runs.features import with_cached_features
from vpjax.runs import fit, workdir
from vpjax.train import optim
from vpjax.train.checkpoint import Checkpoints
from vpjax.train.early_stopping import EarlyStopping
from vpjax.runs.experiment import Experiment, evaluate_metrics, prepare, split_batches
from vpjax.runs.history import Metrics
from vpjax.runs.restore import checkpoint_metadata, restore_checkpoint
from vpjax.train.step import State

log = logging.getLogger(__name__)

Single = tuple[ConfigDict, Path]  # a run: its config and its folder
FREE = ("seed", "seeds", *(f"optim.{name}" for name in optim.NUMBERS))


def kin(config: ConfigDict) -> str | None:
    """Returns a key that is equal for configs which can train at once; None: by itself only.

    They differ in seed and numbers of the optimiser, as long as it consists of the same parts.
    """
    if config.optim.schedule == "plateau" or needs_autotune(config):
        return None
    decays = config.parity and config.optim.name == "adamw" and config.optim.weight_decay > 0
    fixed = {k: v for k, v in configs.flat(config).items() if k not in FREE}
    return json.dumps([fixed, decays, config.optim.clip_norm > 0], sort_keys=True)


@dataclasses.dataclass
class Member:
    """One run of a group: where it writes, and how far it is."""

    experiment: Experiment
    folder: Path
    last: Checkpoints
    best: Checkpoints
    early: EarlyStopping
    metrics: Metrics | None = None
    state: State | None = None  # as it ended
    error: UserError | None = None  # it diverged

    @property
    def live(self) -> bool:
        return self.state is None and self.error is None

    def note(self, recent: list[dict[str, Any]], opt: Any, now: int) -> dict[str, float]:
        """Writes the mean of the last steps; notes it if they have diverged."""
        try:
            numbers = fit.mean(recent, now)
        except Diverged as e:
            self.fail(e)
            return {}
        lr = optim.learning_rate(self.experiment.rate, opt, now - 1)
        self.metrics.write(now, numbers | {"lr": lr})
        return numbers

    def assess(self, state: State, now: int, *, save: bool) -> None:
        """Evaluates on val and saves what is worth it; the run may end here."""
        e, improved = self.experiment, True
        try:
            if "val" in e.sources:
                values = evaluate_metrics(e, state, "val")
                self.metrics.write(now, {f"val_{k}": v for k, v in values.items() if k != "count"})
                improved = self.early.better(values["accuracy"], now)
        except Diverged as error:
            return self.fail(error)
        self.metrics.write_csv()
        note = checkpoint_metadata(e, self.early)
        wanted = e.config.train.select == "best" or e.config.train.test_best
        if best := improved and wanted:
            self.best.save(state, note)
        ends = now == e.plan.steps or self.early.stop
        if save or best or ends:
            self.last.save(state, note)
        if ends:
            self.state = state
        return None

    def fail(self, error: UserError) -> None:
        """Ends the run, for good."""
        log.warning("%s: %s", self.folder.name, error)
        self.error = error
        workdir.write_failure(self.folder, error)


def make_members(singles: Sequence[Single], files: contextlib.ExitStack) -> list[Member]:
    """Prepares every run; `files` closes what they write to."""
    members = []
    for config, folder in singles:
        if not members:
            experiment = with_cached_features(prepare(config))
            for split in ("train", "val"):
                if split in experiment.sources:
                    split_batches(experiment, split)
        else:
            experiment = sibling(config, members[0].experiment)
        saved = [
            files.enter_context(contextlib.closing(Checkpoints(folder / "checkpoints" / kind)))
            for kind in ("last", "best")
        ]
        members.append(Member(experiment, folder, *saved, EarlyStopping(config.train.patience)))
    return members


def sibling(config: ConfigDict, first: Experiment) -> Experiment:
    """Returns the experiment of a config that is kin to that of `first`, with what they share."""
    if config.seed == first.config.seed:
        options = config.optim, first.parts.trainable, first.plan, config.parity
        optimiser, rate = optim.make_optimiser(*options)
        return first._replace(config=config, optimiser=optimiser, rate=rate)
    mine = with_cached_features(prepare(config))
    same = {n: bool((v == first.frozen[n]).all()) for n, v in mine.frozen.items()}
    frozen = {n: first.frozen[n] if same[n] else v for n, v in mine.frozen.items()}
    mine = mine._replace(frozen=frozen, eval_step=first.eval_step)
    if all(same.values()) or not mine.features:
        ours, theirs = (e.features.loaders if e.features else e.loaders for e in (mine, first))
        ours |= theirs
        ours["train"] = theirs["train"].reseeded(config.seed)
    return mine


def resume(members: list[Member]) -> int:
    """Brings all runs back to the newest step that every one has saved; returns it.

    Runs that have ended, or diverged, stay as they are.
    """
    plan = members[0].experiment.plan
    for run in members:
        run.error = workdir.read_failure(run.folder)
        found = None if run.error else restore_checkpoint(run.experiment, run.last)
        if found and (int(found[0].step) >= plan.steps or found[1].stop):
            run.state, run.early = found
    live = [run for run in members if run.live]
    if not live:
        return plan.steps
    step = max(set.intersection(*({0, *run.last.manager.all_steps()} for run in live)))
    found = [_saved(run, step) for run in live] if step else []
    if not all(found):
        step = 0
    for run in live:
        if step:
            state, run.early = found.pop(0)
            run.experiment = run.experiment._replace(state=state)
        else:
            run.last.discard_after(0)
            run.best.discard_after(0)
    return step


def _saved(run: Member, step: int) -> tuple[State, EarlyStopping] | None:
    """Returns what was saved at a step, without what came later; None if it is damaged."""
    run.last.discard_after(step)
    run.best.discard_after(step)
    found = restore_checkpoint(run.experiment, run.last)
    return found if int(found[0].step) == step else None
