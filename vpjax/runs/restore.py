"""From a run's folder back to its state, with a check that the frozen weights are the same."""

import contextlib
import dataclasses
import functools
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vpjax.core import registry
from vpjax.core.errors import UserError
from vpjax.runs import config as configs
from vpjax.runs import model_file
from vpjax.runs.experiment import Experiment
from vpjax.runs.workdir import has_checkpoints
from vpjax.train.checkpoint import (
    Checkpoints,
    checkpoint_items,
    described,
    padded_as,
    without_padding,
)
from vpjax.train.early_stopping import EarlyStopping
from vpjax.train.step import State

MOST = 5  # names of one kind in a message
SEARCHED = "searched"  # the checkpoint with what a method has found on val, see `vpjax.runs.search`


class Record(NamedTuple):
    """What a checkpoint must agree with.

    Attributes:
        config: of the run.
        classes: their names, in the order of the logits.
        preset: name of the preprocessing; None: another was asked for.
        identity: of the frozen parameters, see `vpjax.runs.experiment.identity`.
        data: `Source.content` of the splits that training reads; {}: others may be evaluated.
        moved: whether classes, and so their texts, are meant to be others.
    """

    config: ConfigDict
    classes: Sequence[str]
    preset: str | None
    identity: Mapping[str, str]
    data: Mapping[str, str] = {}
    moved: bool = False


def record_of(experiment: Experiment) -> Record:
    """Return what a checkpoint of an experiment must agree with."""
    e = experiment
    return Record(e.config, e.classes.names, e.preset, e.identity, data_of(e))


def data_of(experiment: Experiment) -> dict[str, str]:
    """Return `Source.content` of the splits that training reads."""
    sources = experiment.sources
    return {split: sources[split].content for split in ("train", "val") if split in sources}


def padded_rows(config: ConfigDict, classes: Sequence[str]) -> dict[str, int]:
    """Return how many rows of a method's parameters are real, see `Checkpoints`."""
    method = registry.lookup("methods", config.method.name)
    return dict.fromkeys(method.sharded, len(classes))


def selected_state(folder: Path, like: State, record: Record, checkpoint: str = "") -> State:
    """Return the state of a run's checkpoint, or else of model.safetensors.

    The state is without the optimizer's.

    Args:
        folder: of the run; or its model.safetensors.
        like: a state of the same shapes.
        record: what the checkpoint must agree with.
        checkpoint: "last", "best", or a step; "": the one that the run reports.

    Raises:
        UserError: if there is no such checkpoint, none is intact, or it belongs to something else.
    """
    if file := file_instead(folder, checkpoint):
        return learnt_state(file, like, record)
    path, step = checkpoint_place(folder, checkpoint or reported(folder, record.config))
    rows = padded_rows(record.config, record.classes)
    with contextlib.closing(Checkpoints(path, rows=rows, read_only=True)) as checkpoints:
        found = restore_checkpoint(checkpoints, like, record, only_weights=True, step=step)
    if found is None:
        raise UserError(
            f"{path} holds no checkpoint: the run has saved nothing yet. Train it again for longer."
        )
    return found[0]


def file_instead(folder: Path, checkpoint: str) -> Path | None:
    """Return the model.safetensors that stands for a run's checkpoints; None: they are there.

    Args:
        folder: of the run; or its model.safetensors.
        checkpoint: that was asked for; "": none by name.
    """
    return None if checkpoint or has_checkpoints(folder) else model_file.find(folder)


def learnt_state(file: Path, like: State, record: Record) -> State:
    """Return the state that a model.safetensors holds, see `vpjax.runs.model_file`.

    Args:
        file: of the run.
        like: a state of the same shapes.
        record: what the file must agree with.

    Raises:
        UserError: if the file is damaged, or belongs to something else.
    """
    facts, arrays = model_file.read_facts(file), model_file.read_arrays(file)
    meta = {"classes": facts["classes"], "preset": facts["preset"], "backbone": facts["identity"]}
    meta["config"] = configs.flat(configs.from_json(facts["config"]))
    meta["arrays"] = described({"trainable": arrays})
    ours = checkpoint_items(like)["weights"]
    shapes = described(without_padding(ours, padded_rows(record.config, record.classes)))
    if differ := differences(meta, record, shapes):
        raise UserError(
            f"{file} was learnt on something else:\n  "
            + "\n  ".join(differ)
            + "\nGive it back what it was trained on."
        )
    parts = {k: {n: padded_as(arrays[n], v) for n, v in p.items()} for k, p in ours.items()}
    return dataclasses.replace(like, step=jnp.int32(facts["metrics"]["step"]), **parts)


def reported(folder: Path, config: ConfigDict) -> str:
    """Return the name of the checkpoints that a run reports: "last", "best" or "searched"."""
    searched = any((folder / "checkpoints" / SEARCHED).glob("[0-9]*"))
    return SEARCHED if searched else config.train.select


def checkpoint_place(folder: Path, checkpoint: str) -> tuple[Path, int | None]:
    """Return the folder of a run's checkpoints, and the step of the one that is meant.

    Args:
        folder: of the run.
        checkpoint: "last", "best", or a step.

    Raises:
        UserError: if there is none, with those that there are.
    """
    step = None
    if checkpoint.isdigit():
        checkpoint, step = checkpoint_of_step(folder, int(checkpoint)), int(checkpoint)
    path = folder / "checkpoints" / checkpoint
    if not any(path.glob("[0-9]*")):
        there = sorted(p.parent.name for p in (folder / "checkpoints").glob("*/[0-9]*"))
        there = f" It has saved: {', '.join(dict.fromkeys(there))}." if there else ""
        raise UserError(
            f"{path} holds no checkpoint: the run has saved nothing there.{there} Choose another, "
            "or train it for longer."
        )
    return path, step


def checkpoint_of_step(folder: Path, step: int) -> str:
    """Return the name, "last" or "best", of the checkpoints with one of a step.

    Raises: UserError with the steps that there are.
    """
    saved = {p.parent.name: p for p in (folder / "checkpoints").glob(f"*/{step}")}
    if not saved:
        steps = sorted({int(p.name) for p in (folder / "checkpoints").glob("*/[0-9]*")})
        there = ", ".join(map(str, steps)) or "none"
        raise UserError(f"{folder} has no checkpoint of step {step}; it has those of: {there}.")
    return sorted(saved)[-1]


def restore_checkpoint(
    checkpoints: Checkpoints,
    like: State,
    record: Record,
    only_weights: bool = False,
    step: int | None = None,
) -> tuple[State, EarlyStopping] | None:
    """Return the newest intact state and the record of evaluations; None if nothing was saved.

    Args:
        checkpoints: of the run.
        like: a state of the same shapes.
        record: what they must agree with.
        only_weights: whether the optimizer's state stays that of `like`.
        step: of the one to read; None: the newest.

    Raises:
        UserError: if all checkpoints are damaged, or they belong to something else.
    """
    # Of shapes alone: the arrays of `like` may have been given to a step.
    cut = functools.partial(without_padding, rows=checkpoints.rows)
    shapes = described(jax.eval_shape(cut, checkpoint_items(like)["weights"]))

    def check(meta: Mapping[str, Any]) -> None:
        EarlyStopping(**meta["early"])  # raises, as for damaged ones, if they are of no evaluation
        if differ := differences(meta, record, shapes):
            raise UserError(
                f"{checkpoints.folder.parent.parent} was trained on something else:\n  "
                + "\n  ".join(differ)
                + "\nGive it back what it was trained on, or train in another --workdir. Nothing "
                "was changed."
            )

    found = checkpoints.restore(like, only_weights, check, step)
    if found is None:
        return None
    items, meta = found
    changes = dict(items["weights"])
    changes |= items.get("optimizer", {"step": jnp.int32(meta["step"])})
    values = {name: changes.get(name, getattr(like, name)) for name in vars(like)}
    return State(**values), EarlyStopping(**meta["early"])


def differences(
    meta: Mapping[str, Any], record: Record, shapes: Mapping[str, Mapping[str, Sequence[int]]]
) -> list[str]:
    """Return a line for everything in which a checkpoint does not agree with a run.

    Args:
        meta: of the checkpoint.
        record: what it must agree with.
        shapes: of the trainable parameters and running averages, see `described`.
    """
    lines = [] if record.moved else differing_classes(meta["classes"], record.classes)
    if record.preset is not None and meta["preset"] != record.preset:
        lines.append(f"preset: {meta['preset']} there, {record.preset} now")
    there, now = meta["backbone"], dict(record.identity)
    lines += [
        f"frozen weights, {key}: {there.get(key, 'none')} there, {now.get(key, 'none')} now"
        for key in sorted(there.keys() | now.keys())
        if there.get(key) != now.get(key) and not (key == "text" and (lines or record.moved))
    ]
    before = meta.get("data", {})  # not of earlier versions
    lines += [
        f"{split}: the images or labels are not those the run has learnt from, though their names "
        "may be the same"
        for split, content in record.data.items()
        if split in before and before[split] != content and not lines
    ]
    ours = configs.flat(record.config)
    lines += [
        f"{key}: {value!r} there, {ours[key]!r} now"
        for key, value in configs.tuples(dict(meta["config"])).items()
        if key.startswith("method.") and key in ours and ours[key] != value
    ]
    if not lines:  # else the shapes only follow from what is named above
        saved, ours = (
            {name: tuple(shape) for part in parts.values() for name, shape in part.items()}
            for parts in (meta["arrays"], shapes)
        )
        names = [n for n in sorted(saved.keys() | ours.keys()) if saved.get(n) != ours.get(n)]
        none = "absent"
        lines = [f"{n}: {saved.get(n, none)} there, {ours.get(n, none)} now" for n in names[:MOST]]
    return lines


def differing_classes(there: Sequence[str], now: Sequence[str]) -> list[str]:
    """Return lines on what differs between two lists of classes; [] if nothing does."""
    if list(there) == list(now):
        return []
    gone = [name for name in there if name not in set(now)]
    new = [name for name in now if name not in set(there)]
    if not gone and not new:
        at = next(i for i, pair in enumerate(zip(there, now, strict=True)) if len(set(pair)) > 1)
        return [f"classes, in another order: number {at} is {there[at]} there and {now[at]} now"]
    lines = [f"classes: {len(there)} there, {len(now)} now"]
    for names, where in ((gone, "there"), (new, "now")):
        if names:
            more = f" and {len(names) - MOST} more" * (len(names) > MOST)
            lines.append(f"  only {where}: {', '.join(names[:MOST])}{more}")
    return lines


def checkpoint_metadata(
    experiment: Experiment, early: EarlyStopping, seconds: float
) -> dict[str, Any]:
    """Return what a checkpoint holds beside arrays.

    Args:
        experiment: of the run.
        early: the record of evaluations.
        seconds: that the run has taken so far, in all its processes.
    """
    return {
        "version": importlib.metadata.version("vpjax"),
        "config": configs.flat(experiment.config),
        "backbone": experiment.identity,
        "preset": experiment.preset,
        "classes": list(experiment.classes.names),
        "data": data_of(experiment),
        "seconds": seconds,
        "early": dict(vars(early)),  # as it is now: checkpoints are written in the background
    }
