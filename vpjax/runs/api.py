"""`vpjax.fit`: training from Python, on a config, a data set by name, or arrays.

run = fit(model, train=(images, labels), val=(images_v, labels_v), epochs=20)
run.predict(new_images).labels
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpjax.core import registry
from vpjax.core.errors import UserError
from vpjax.core.files import local_folder
from vpjax.data import from_arrays, open_source
from vpjax.data.source import Source
from vpjax.models.model import Model
from vpjax.models.partition import partition
from vpjax.runs import config as configs
from vpjax.runs import defaults
from vpjax.runs import fit as running
from vpjax.runs.callbacks import Callback
from vpjax.runs.experiment import BY_HAND
from vpjax.runs.given import given_model
from vpjax.runs.run import Run, load_run

# The default recipe: AdamW, a warm-up of a tenth of the run and a cosine, gradients clipped to 1.
LR, LR_MUCH = 1e-2, 1e-3  # peak rates; the second where more than a tenth of the model trains
MUCH = 0.1
OPTIM = {"name": "adamw", "lr_base_batch_size": 0, "clip_norm": 1.0, "weight_decay": 1e-4}


def fit(
    model: Model | ConfigDict,
    data: str | None = None,
    *,
    train: Any = None,
    val: Any = None,
    test: Any = None,
    workdir: str | Path | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    changes: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train a model and return the run.

    Called again with the same `workdir`, it goes on with a run that was interrupted.

    Args:
        model: from `create_model`; or the config of a recipe, which contains all the rest.
        data: the name of a data set, as in `config.data.name` ("cifar10", "folder:PATH").
        train: (images, labels) as `vpjax.data.from_arrays` takes them; with `data`, a split such
            as "train[:90%]" (default "train").
        val: the same, evaluated while training; None: no validation.
        test: the same, evaluated once at the end; None: no test.
        workdir: the run's folder; None: a new temporary one.
        epochs: passes over the training images; 100 if neither this nor `steps` is given.
        steps: training steps, instead of epochs.
        batch_size: images of a step; 64, or all if there are fewer.
        lr: peak learning rate of AdamW; 0.01, or 0.001 where over a tenth of the model trains.
        seed: of the order of images and all randomness while training; 0.
        changes: to any other key of the config, such as {"optim": {"weight_decay": 0.05}}.
        callbacks: told what happens while the run trains, see `vpjax.runs.callbacks`.

    Raises:
        UserError: for arguments, data or weights that do not fit.
        Stopped: after a signal (Ctrl-C), when everything is saved.
    """
    folder = local_folder(workdir) if workdir else Path(tempfile.mkdtemp(prefix="vpjax-"))
    options = {"epochs": epochs, "steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed}
    options = {k: v for k, v in options.items() if v is not None}
    if isinstance(model, ConfigDict):
        given = {"data": data, "train": train, "val": val, "test": test} | options
        if extra := [k for k, v in given.items() if v is not None]:
            raise UserError(
                f"{extra[0]!r} is given beside a config, which contains it. Change it there, or in "
                "`changes`."
            )
        running.fit(configs.merged(model, changes or {}), folder, callbacks=callbacks)
        return load_run(folder)
    sources, names = open_data(data, train, val, test)
    config = make_config(model, names, len(sources["train"]), **options)
    config = configs.merged(config, changes or {})
    check_model(model, sources["train"], config.seed)
    running.fit(config, folder, sources=sources, given=given_model(model), callbacks=callbacks)
    return load_run(folder, backbone=model.backbone)


def open_data(
    data: str | None, train: Any, val: Any, test: Any
) -> tuple[dict[str, Source], dict[str, str]]:
    """Open the data of a run; see `fit` for the arguments.

    Returns:
        The sources by split, and their names for the section `config.data`.

    Raises:
        UserError: if there are no training images, or they are not what `fit` takes.
    """
    given = {"train": train, "val": val, "test": test}
    if data is not None:
        given["train"] = train or "train"
        splits = {k: v for k, v in given.items() if v is not None}
        sources = {k: open_source(data, v) for k, v in splits.items()}
        return sources, {"name": data} | {k: splits.get(k, "") for k in given}
    if train is None:
        raise UserError("fit needs train=(images, labels), or the name of a data set")
    splits = {k: v for k, v in given.items() if v is not None}
    for split, pair in splits.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UserError(f"{split} is a {type(pair).__name__}; expected (images, labels)")
    sources = {k: from_arrays(*v, name=f"arrays[{k}]") for k, v in splits.items()}
    classes = sources["train"].classes
    for split in sources.keys() - {"train"}:  # these may lack a class
        sources[split] = from_arrays(*splits[split], classes=classes, name=f"arrays[{split}]")
    return sources, {"name": "arrays"} | {k: k if k in splits else "" for k in given}


def check_model(model: Model, train: Source, seed: int) -> None:
    """Check that a model suits the data, and that it can be made again from the run's config.

    Args:
        model: from `create_model`.
        train: the training images.
        seed: of the run.

    Raises:
        UserError: if it has another number of classes, or random weights from another seed.
    """
    head = getattr(model.method, "head", None)
    count = head.bias.shape[-1] if head is not None else train.num_classes
    if count != train.num_classes:
        raise UserError(
            f"the model has {count} classes, {train.name} has {train.num_classes}. Create it with "
            f"create_model(..., num_classes={train.num_classes})."
        )
    origin = getattr(model.backbone, "origin", None)
    if origin is not None and origin.loaded is None and origin.seed != seed:
        raise UserError(
            f"the backbone has random weights from seed {origin.seed}, the run has seed {seed} and "
            f"could not make it again from its config. Use fit(..., seed={origin.seed})."
        )


def make_config(
    model: Model,
    data: Mapping[str, str],
    images: int,
    *,
    epochs: float = 100.0,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int = 0,
) -> ConfigDict:
    """Return the config of a run that trains a model with the default recipe.

    Args:
        model: from `create_model`.
        data: the section `config.data`, or a part of it.
        images: number of training images.
        epochs: see `fit`, as for the others.
        steps: of training.
        batch_size: images of a step.
        lr: peak learning rate.
        seed: of the run.
    """
    config = defaults.get_config()
    config.backbone = backbone_section(model)
    spec = getattr(model, "method_spec", None)
    if spec is None:
        name, options = registry.name_of("methods", type(model.method)), {}
    else:
        name, options = spec.value.name, spec.value.options
    config.method = configs.section("methods", name, **options)
    config.data.update(data, preset=model.backbone.preset or "auto")
    config.train.batch_size = batch_size or min(64, images)
    config.train.epochs, config.train.steps = epochs, steps
    config.train.trainable = model.trainable_pattern
    config.match_reference_code = getattr(model, "match_reference_code", False)
    config.seed, config.dtype = seed, model.backbone.dtype
    config.curves = config.draw = False
    parts = partition(model, model.trainable_pattern)
    count = sum(v.size for v in parts.trainable.values())
    much = count > MUCH * (count + sum(v.size for v in parts.frozen.values()))
    warmup = epochs / 10 if steps is None else steps * config.train.batch_size / images / 10
    config.optim.update(OPTIM, lr=lr or (LR_MUCH if much else LR), warmup_epochs=warmup)
    return config


def backbone_section(model: Model) -> ConfigDict:
    """Return the section `backbone` of a model's config."""
    backbone = model.backbone
    origin = getattr(backbone, "origin", None)
    if origin is None:
        name = registry.name_of("backbones", type(backbone))
        section = ConfigDict({"name": name, "image_size": backbone.image_size})
        section.update(weights=BY_HAND, head="new", resample="align_corners")
        return section
    spec = origin.spec
    return defaults.backbone(
        spec.name, weights=spec.weights, resample=spec.resample, **spec.completed()
    )
