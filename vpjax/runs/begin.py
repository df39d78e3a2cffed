"""The learnt parameters of one run as the start of another (`train.start`)."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vpjax.core import registry
from vpjax.core.errors import UserError
from vpjax.runs import config as configs
from vpjax.runs import model_file, recorded
from vpjax.runs.addresses import run_folder
from vpjax.runs.experiment import Experiment
from vpjax.runs.restore import checkpoint_place
from vpjax.train import sharding
from vpjax.train.checkpoint import Checkpoints
from vpjax.train.step import State

log = logging.getLogger(__name__)
HEAD = "method/head/"


def begin(experiment: Experiment) -> tuple[State, dict[str, Any]]:
    """Return the state that a run begins with, and facts for its result: {} for a fresh start.

    Args:
        experiment: of the run.

    Raises:
        UserError: if `train.start` is no run, or one of another method, backbone or shape.
    """
    config = experiment.config
    if not config.train.start:
        return experiment.state, {}
    where, _, checkpoint = config.train.start.partition("#")
    folder = run_folder(where)
    before = recorded.load(folder)

    def check(meta: Mapping[str, Any]) -> None:
        pairs = {
            "method.name": (meta["config"]["method.name"], config.method.name),
            "backbone": (meta["backbone"]["name"], experiment.identity["name"]),
            "frozen weights": (meta["backbone"]["sha256"], experiment.identity["sha256"]),
        }
        for key, (there, now) in pairs.items():
            if there != now:
                raise UserError(
                    f"train.start: the run {folder} has another {key}: {there} there, {now} here. "
                    "Start from a run of the same method and backbone."
                )

    file = model_file.find(folder)
    if file and not checkpoint and not any(folder.glob("checkpoints/*/[0-9]*")):
        found, meta = learnt_weights(file, experiment.state.stats, check)
    else:
        path, step = checkpoint_place(folder, checkpoint or before.train.select)
        with contextlib.closing(Checkpoints(path)) as checkpoints:
            found, meta = checkpoints.read_weights(check, step)
    rules = registry.lookup("methods", config.method.name).sharded
    left, parts = [], {}
    for part, ours in (
        ("trainable", experiment.state.trainable),
        ("stats", experiment.state.stats),
    ):
        theirs = dict(found[part])
        for name, value in ours.items():
            if name.startswith(HEAD) and _shape(theirs.get(name)) != value.shape:
                theirs[name] = sharding.to_host(value)
                left.append(name)
        differ = [
            n
            for n in sorted(ours.keys() | theirs.keys())
            if _shape(theirs.get(n)) != _shape(ours.get(n))
        ]
        if differ:
            n = differ[0]
            raise UserError(
                f"train.start: {n} is {_shape(theirs.get(n)) or 'absent'} in {folder} and "
                f"{_shape(ours.get(n)) or 'absent'} here. Give both runs the same options."
            )
        parts[part] = sharding.place({n: theirs[n] for n in ours}, experiment.mesh, rules)
    log.info("start     from %s, step %d%s", folder, meta["step"], "; the head is new" * bool(left))
    facts = {"run": str(folder), "step": meta["step"], "left_out": left}
    return dataclasses.replace(experiment.state, **parts), {"start": facts}


def learnt_weights(
    file: Path, stats: Collection[str], check: Callable[[Mapping[str, Any]], None]
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """Return what a model.safetensors holds, as `Checkpoints.read_weights` does.

    Args:
        file: of the run.
        stats: names of running averages.
        check: called with the metadata before any array is read.

    Raises:
        UserError: if it is damaged.
    """
    facts = model_file.read_facts(file)
    config = configs.flat(configs.from_json(facts["config"]))
    check({"config": config, "backbone": facts["identity"]})
    arrays = model_file.read_arrays(file)
    parts = {
        "trainable": {n: a for n, a in arrays.items() if n not in stats},
        "stats": {n: a for n, a in arrays.items() if n in stats},
    }
    return parts, {"step": facts["metrics"]["step"]}


def _shape(array: Any) -> tuple[int, ...] | None:
    return None if array is None else np.shape(array)
