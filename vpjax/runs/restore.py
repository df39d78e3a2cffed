"""From a run's folder back to its state, with a check that the frozen weights are the same."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from vpjax.core.errors import UserError
from vpjax.core.files import read_json, write_json
from vpjax.runs import config as configs
from vpjax.runs.autotune import load_choice
from vpjax.runs.experiment import ClassInfo, Experiment, prepare
from vpjax.runs.features import with_cached_features
from vpjax.train.checkpoint import Checkpoints
from vpjax.train.early_stopping import EarlyStopping
from vpjax.train.step import State


def reopen_run(folder: Path) -> tuple[Experiment, State]:
    """Return the experiment of a finished or interrupted run, data included, and its state.

    The state is that of the checkpoint that `train.select` names, without the optimizer's.

    Raises:
        UserError: if data are missing, there is no intact checkpoint, or the weights file is
            another now.
    """
    config = configs.load(folder / "config.json")
    experiment = load_choice(with_cached_features(prepare(config)), folder)
    return experiment, selected_state(folder, config, experiment.state, experiment.identity)


def selected_state(
    folder: Path, config: ConfigDict, like: State, identity: Mapping[str, str]
) -> State:
    """Return the state of the checkpoint that `train.select` names, without the optimizer's.

    Args:
        folder: of the run.
        config: of the run.
        like: a state of the same shapes.
        identity: of the frozen parameters now, see `vpjax.runs.experiment.identity`.

    Raises:
        UserError: if there is no intact checkpoint, or it belongs to other frozen parameters.
    """
    path = folder / "checkpoints" / config.train.select
    if not path.exists():
        raise UserError(
            f"{path} does not exist: the run has saved nothing yet. Train it again for longer."
        )
    with contextlib.closing(Checkpoints(path)) as checkpoints:
        found = restore_checkpoint(checkpoints, like, identity, only_weights=True)
    if found is None:
        raise UserError(
            f"{path} holds no checkpoint: the run has saved nothing yet. Train it again for longer."
        )
    return found[0]


def restore_checkpoint(
    checkpoints: Checkpoints,
    like: State,
    identity: Mapping[str, str],
    only_weights: bool = False,
) -> tuple[State, EarlyStopping] | None:
    """Return the newest intact state and the record of evaluations; None if nothing was saved.

    Args:
        checkpoints: of the run.
        like: a state of the same shapes.
        identity: of the frozen parameters now, see `vpjax.runs.experiment.identity`.
        only_weights: whether the optimizer's state stays that of `like`.

    Raises:
        UserError: if all checkpoints are damaged, or belong to other frozen parameters.
    """
    found = checkpoints.restore(like, only_weights)
    if found is None:
        return None
    items, meta = found
    if dict(identity) != meta["backbone"]:
        raise UserError(
            f"{checkpoints.folder} was trained on the frozen weights {meta['backbone']}, and found "
            f'are {dict(identity)}. Restore the same weights file; where "text" differs, the same '
            "names of classes and templates."
        )
    changes = dict(items["weights"])
    changes |= items.get("optimizer", {"step": jnp.int32(meta["step"])})
    values = {name: changes.get(name, getattr(like, name)) for name in vars(like)}
    return State(**values), EarlyStopping(**meta["early"])


def checkpoint_metadata(experiment: Experiment, early: EarlyStopping) -> dict[str, Any]:
    """Return what a checkpoint holds beside arrays.

    Args:
        experiment: of the run.
        early: the record of evaluations.
    """
    return {
        "config": configs.flat(experiment.config),
        "backbone": experiment.identity,
        "preset": experiment.preset,
        "classes": list(experiment.classes.names),
        "early": vars(early),
    }


def write_classes(classes: ClassInfo, folder: Path) -> None:
    """Write classes.json: the names of the classes, and what the data set knows of each."""
    write_json(folder / "classes.json", classes._asdict())


def read_classes(folder: Path) -> ClassInfo:
    """Read classes.json from the folder of a run.

    Raises:
        UserError: if it is missing.
    """
    found = read_json(folder / "classes.json")
    if found is None:
        raise UserError(
            f"{folder} has no classes.json: it is no run of vpjax, or training has not begun. Give "
            "the folder of another run."
        )
    return ClassInfo(tuple(found["names"]), tuple(found["metadata"]), found["multilabel"])
