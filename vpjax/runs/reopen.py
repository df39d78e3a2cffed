"""A trained run with the data of its evaluation: `eval` and `plot`. No training image is read.

Classes and numbers of training images are those that the run has recorded.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vpjax.core import registry
from vpjax.core.errors import UserError
from vpjax.data.holdout import Holdout
from vpjax.data.order import few
from vpjax.data.source import Source
from vpjax.data.subset import with_classes
from vpjax.runs import places, recorded
from vpjax.runs.autotune import load_choice
from vpjax.runs.classes import ClassInfo, classes_of, read_classes, training_counts
from vpjax.runs.experiment import (
    Experiment,
    abstract_model,
    assembled,
    build_model,
    check_dtype,
    held,
    make_criterion,
    make_plan,
    open_split,
    resolve_attention,
)
from vpjax.runs.features import with_cached_features
from vpjax.runs.restore import Record, selected_state
from vpjax.runs.workdir import read_result
from vpjax.train import sharding
from vpjax.train.step import State


class NotForOtherClasses(UserError):
    """What was learnt belongs to the classes that it was learnt of."""


def reopen_run(
    folder: Path, config: ConfigDict | None = None, checkpoint: str = "", also: Sequence[str] = ()
) -> tuple[Experiment, State]:
    """Return the experiment of a run with the split it is evaluated on, and its state.

    That is the test split, or else val; there may be neither. The state is without the optimizer's,
    and the experiment cannot train.

    Args:
        folder: of the run.
        config: of the run, see `vpjax.runs.recorded`; None: as it was recorded.
        checkpoint: see `vpjax.runs.restore.selected_state`.
        also: further splits to open, such as "train".

    Raises:
        UserError: if data are missing, there is no intact checkpoint, or it belongs to other data,
            another method or other weights.
    """
    before = recorded.load(folder)
    config = before if config is None else config
    places.check(config, folder)
    check_dtype(config)
    classes = known_classes(folder, config)
    sources = open_splits(config, classes, also, held(config, folder))
    other = next((s for s in sources.values() if s.classes != classes.names), None)
    moved = other is not None and moves(folder, config, before, classes, other)
    if moved:
        if config.text.class_names == before.text.class_names:  # they name other classes
            config = config.copy_and_resolve_references()
            config.text.class_names = ""
        classes = classes_of(config, other)._replace(images=classes.images)
    experiment = experiment_of(config, before, classes, sources, moved)
    experiment = load_choice(with_cached_features(experiment), folder)
    # Other classes than the run's are named when its checkpoint is read.
    seen = classes.names if other is None else other.classes
    preset = experiment.preset if config.data.preset == before.data.preset else None
    record = Record(config, seen, preset, experiment.identity, moved=moved)
    return experiment, selected_state(folder, experiment.state, record, checkpoint)


def moves(
    folder: Path, config: ConfigDict, before: ConfigDict, classes: ClassInfo, other: Source
) -> bool:
    """Return whether what a run has learnt can be used for other classes than its own.

    Args:
        folder: of the run.
        config: of the evaluation.
        before: of the run.
        classes: of the run.
        other: what is to be evaluated, of other classes.

    Raises:
        NotForOtherClasses: if it cannot, and none of its classes is there.
    """
    if abstract_model(to_restore(config, before), len(classes.names)).method.for_any_classes:
        return True
    if set(other.classes) & set(classes.names):
        return False  # what differs is named when the checkpoint is read
    raise NotForOtherClasses(
        f"{folder} has learnt the classes {few(classes.names)} and nothing about others: "
        f"{before.method.name} has parameters for each class, so it cannot be evaluated on "
        f"{other.name}, whose classes are {few(other.classes)}."
    )


def known_classes(folder: Path, config: ConfigDict) -> ClassInfo:
    """Return the classes of a run, with what an older version did not record of its images.

    Raises:
        UserError: if there is no such record, or the numbers are needed and cannot be found.
    """
    classes = read_classes(folder)
    if classes.images:
        return classes
    try:
        train = open_split(config, "train")
        counts = training_counts(train)
        counts = None if counts is None else tuple(counts.tolist())
        return classes._replace(images=len(train), counts=counts)
    except UserError:
        if config.train.class_weights != "none":
            raise
    result = read_result(folder) or {}
    images = result.get("data", {}).get("train", {}).get("images", 0)
    return classes._replace(images=images or config.train.batch_size)


def open_splits(
    config: ConfigDict, classes: ClassInfo, also: Sequence[str], holdout: Holdout
) -> dict[str, Source]:
    """Return the split to evaluate, test or else val, and others, labelled as a run's classes.

    Data whose training images are not there may lack some of the classes.
    """
    data, out = config.data, {}
    first = next((s for s in ("test", "val") if data[s]), "")
    for split in dict.fromkeys((first, *also)):
        if split and data.get(split):
            source = open_split(config, split, holdout)
            out[split] = with_classes(source, classes.names, classes.metadata)
    return out


def experiment_of(
    config: ConfigDict,
    before: ConfigDict,
    classes: ClassInfo,
    sources: dict[str, Source],
    moved: bool = False,
) -> Experiment:
    """Return what evaluates a run, with the parameters that training began with.

    Args:
        config: of the evaluation.
        before: of the run.
        classes: of the run; or those it is evaluated on.
        sources: the splits to evaluate.
        moved: whether the classes are others than the run was trained on.
    """
    if config.dtype == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")
    attention = resolve_attention(config)
    mesh = sharding.make_mesh(config.mesh.data, model=config.mesh.model)
    built = build_model(to_restore(config, before, moved), classes, mesh, attention)
    criterion = None
    if sources:
        criterion = make_criterion(config, next(iter(sources.values())), classes.counts)
    plan = make_plan(before, classes.images)
    state = State(jnp.int32(0), built.parts.trainable, built.parts.stats, None, None)
    return assembled(config, classes, sources, built, mesh, plan, criterion, state)


def to_restore(config: ConfigDict, before: ConfigDict, moved: bool = False) -> ConfigDict:
    """Return a copy of a config for a model whose parameters are read from a checkpoint.

    It needs no file that training only began with, and describes classes to CLIP as then.

    Args:
        config: of the evaluation.
        before: of the run.
        moved: whether the classes are others: CLIP is told of them as of the data evaluated.
    """
    config = config.copy_and_resolve_references()
    config.data.shots = before.data.shots
    if not moved:
        config.data.name = before.data.name
    if not config.train.trainable:  # else prompts may be frozen, and in no checkpoint
        config.method.update(registry.lookup("methods", config.method.name).restored)
    return config
