"""From a run's folder back to its numbers: what a checkpoint says of itself, whether it fits."""

import contextlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from vpjax.core.errors import UserError
from vpjax.core.files import read_json, write_json
from vpjax.runs import config as configs
from vpjax.runs.autotune import load_choice
from vpjax.runs.experiment import ClassInfo, Experiment, prepare
from vpjax.runs.features import with_cached_features
from vpjax.train import step
from vpjax.train.checkpoint import Checkpoints
from vpjax.train.early_stopping import EarlyStopping


def reopen_run(folder: Path) -> tuple[Experiment, step.State]:
    """Returns a finished or interrupted run, with the checkpoint that it selects.

    Raises: UserError if there is no intact checkpoint, or the weights file is another now.
    """
    config = configs.load(folder / "config.json")
    experiment = load_choice(with_cached_features(prepare(config)), folder)
    path = folder / "checkpoints" / config.train.select
    if not path.exists():
        raise UserError(f"{path} does not exist: the run has saved nothing yet")
    with contextlib.closing(Checkpoints(path)) as checkpoints:
        found = restore_checkpoint(experiment, checkpoints, only_weights=True)
    if found is None:
        raise UserError(f"{path} holds no checkpoint: the run has saved nothing yet")
    return experiment, found[0]


def restore_checkpoint(
    experiment: Experiment, checkpoints: Checkpoints, only_weights: bool = False
) -> tuple[step.State, EarlyStopping] | None:
    """Returns the newest intact state and where early stopping was; None if nothing was saved."""
    found = checkpoints.restore(experiment.state, only_weights)
    if found is None:
        return None
    items, meta = found
    mine, theirs = checkpoint_metadata(experiment, EarlyStopping(0))["backbone"], meta["backbone"]
    if mine != theirs:
        raise UserError(
            f"{checkpoints.folder}: trained on backbone {theirs}, but this is {mine}. Put the same "
            'weights file back, or the same names of classes and templates for "text".'
        )
    state = experiment.state
    changes = dict(items["weights"])
    changes |= items.get("optimizer", {"step": jnp.int32(meta["step"])})
    values = {name: changes.get(name, getattr(state, name)) for name in vars(state)}
    return step.State(**values), EarlyStopping(**meta["early"])


def checkpoint_metadata(experiment: Experiment, early: EarlyStopping) -> dict[str, Any]:
    """Returns what a checkpoint says about itself besides numbers."""
    loaded = experiment.loaded
    return {
        "config": configs.flat(experiment.config),
        "backbone": {
            "name": experiment.config.backbone.name,
            "sha256": loaded.sha256 if loaded else "drawn from the seed",
        }
        | ({"text": experiment.text} if experiment.text else {}),
        "preset": experiment.preset,
        "classes": list(experiment.classes.names),
        "early": vars(early),
    }


def write_classes(classes: ClassInfo, folder: Path) -> None:
    """Writes classes.json: names of the classes, and what is known of each."""
    write_json(folder / "classes.json", classes._asdict())


def read_classes(folder: Path) -> ClassInfo:
    """Reads what `write_classes` wrote.

    Raises:
        UserError: if it is not there.
    """
    found = read_json(folder / "classes.json")
    if found is None:
        raise UserError(f"{folder} has no classes.json: it is no run of vpjax, or it has not begun")
    return ClassInfo(tuple(found["names"]), tuple(found["metadata"]), found["multilabel"])
