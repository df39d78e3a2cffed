"""From what a run begins: fresh values, those made from its images, or another run's.

`train.start` names the run, or a file, whose learnt parameters are the start of another.
"""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vpjax.core import registry
from vpjax.core.errors import UserError
from vpjax.core.files import local_folder
from vpjax.methods import linears
from vpjax.runs import config as configs
from vpjax.runs import model_file, recorded
from vpjax.runs.addresses import run_folder
from vpjax.runs.blame import not_finite
from vpjax.runs.experiment import Experiment
from vpjax.runs.restore import checkpoint_place, file_instead, reported
from vpjax.runs.start_values import with_start_values
from vpjax.train import sharding
from vpjax.train.checkpoint import Checkpoints
from vpjax.train.step import State
from vpjax.weights import learnt, peft_adapter
from vpjax.weights.download import sha256

log = logging.getLogger(__name__)
HEAD = "method/head/"


def begin(experiment: Experiment) -> tuple[State, dict[str, Any]]:
    """Return the state that a run begins with, and facts for its result: {} for a fresh start.

    Args:
        experiment: of the run.

    Raises:
        UserError: if `train.start` is no run, no adapter of peft and no file of the published code,
            or one of another method, backbone or shape.
    """
    config = experiment.config
    if not config.train.start:
        return with_start_values(experiment), {}
    start = Path(config.train.start).expanduser()
    adapter = peft_adapter.folder_of(config.train.start)
    if adapter or (learnt.is_file(config.train.start) and not model_file.written_by_a_run(start)):
        where, found = _of_adapter(experiment, adapter) if adapter else _of_file(experiment)
        facts = {"file": str(where), "sha256": sha256(where)}
        said = str(where)
    else:
        where, found, step = _of_run(experiment)
        facts = {"run": str(where), "step": step}
        said = f"{where}, step {step}"
    if text := not_finite(found["trainable"] | found["stats"]):
        raise UserError(f"train.start: {where} holds numbers that are not finite: {text}.")
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
                f"train.start: {n} is {_shape(theirs.get(n)) or 'absent'} in {where} and "
                f"{_shape(ours.get(n)) or 'absent'} here. Give both runs the same options."
            )
        parts[part] = sharding.place({n: theirs[n] for n in ours}, experiment.mesh, rules)
    log.info("start     from %s%s", said, "; the head is new" * bool(left))
    if "file" in facts:
        taken = len(experiment.state.trainable) + len(experiment.state.stats) - len(left)
        log.info("          %d arrays taken, such as %s", taken, sorted(set(parts["trainable"]))[0])
    return dataclasses.replace(experiment.state, **parts), {"start": facts | {"left_out": left}}


def _of_run(experiment: Experiment) -> tuple[Path, dict[str, Any], int]:
    """Return the folder of another run, what it has learnt, and its step."""
    config = experiment.config
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

    if file := file_instead(folder, checkpoint):
        found, meta = learnt_weights(file, experiment.state.stats, check)
    else:
        path, step = checkpoint_place(folder, checkpoint or reported(folder, before))
        with contextlib.closing(Checkpoints(path, read_only=True)) as checkpoints:
            found, meta = checkpoints.read_weights(check, step)
    return folder, found, meta["step"]


def _of_file(experiment: Experiment) -> tuple[Path, dict[str, Any]]:
    """Return a file of the published code, and what it has learnt."""
    config, state = experiment.config, experiment.state
    path = local_folder(config.train.start)
    ours = state.trainable | state.stats
    compared = {n: experiment.frozen[n] for n in learnt.COMPARED if n in experiment.frozen}
    expected = {n: v.shape for n, v in (ours | compared).items()}
    classes = len(experiment.classes.names)
    found = learnt.read(path, config.method.name, config.backbone.name, expected, classes)
    for name, value in compared.items():
        there = found.pop(name, None)
        if there is not None:
            _check_frozen(path, name, there, sharding.to_host(value))
    parts = {"trainable": {}, "stats": {}}
    for name, value in found.items():
        parts["stats" if name in state.stats else "trainable"][name] = value
    return path, parts


def _of_adapter(experiment: Experiment, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the file of an adapter of the peft library, and what it has learnt."""
    options, frozen = experiment.config.method.to_dict(), experiment.frozen

    def lengths(layer: int, site: str) -> np.ndarray:
        found = []
        for name in linears.parts_of(site):
            place = linears.SITES[name].replace(".", "/")
            kernel = frozen.get(f"backbone/layers/{layer}/{place}/kernel")
            if kernel is None:
                raise UserError(
                    f"train.start: {folder} adapts {site} of block {layer}, which the run's "
                    f"{experiment.config.backbone.name} has not frozen"
                )
            kernel = np.asarray(sharding.to_host(kernel), np.float64)
            inputs = kernel.shape[:2] if name == "proj" else kernel.shape[:1]
            found.append(np.linalg.norm(kernel.reshape(math.prod(inputs), -1), axis=0))
        return np.concatenate(found)

    path, found = peft_adapter.read(folder, options.pop("name"), options, lengths)
    for name in ("method/a", "method/b"):  # VeRA's pair
        there = found.pop(name, None)
        if there is not None:
            _check_frozen(path, name, there, sharding.to_host(frozen[name]))
    return path, {"trainable": found, "stats": {}}


def _check_frozen(path: Path, name: str, there: np.ndarray, here: np.ndarray) -> None:
    """Raise a UserError if a file was learnt beside other frozen numbers.

    Half precision of the published CLIPs is no difference.
    """
    if there.shape == here.shape and np.allclose(there, here, rtol=1e-2, atol=2e-3):
        return
    what = "pair of matrices" if name in ("method/a", "method/b") else "backbone"
    if name == learnt.TEXT:
        what = "text features: other classes, another order of them, templates or CLIP"
    raise UserError(
        f"train.start: what {path} holds was learnt with another {what}; {name} differs. Give the "
        "run the data, weights and options of the file."
    )


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
