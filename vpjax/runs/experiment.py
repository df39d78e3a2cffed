"""From a config to what training and evaluation need: data, model, mesh, optimizer.

This is the only file that reads the sections `backbone`, `method`, `data`, `text` and `optim` of a
config; the rooms below take plain arguments. Mistakes in a config are found here, before anything
large is compiled.
"""

import dataclasses
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vpjax.core import registry
from vpjax.core.errors import UserError, unknown
from vpjax.core.size import pair
from vpjax.data import open_source, preset
from vpjax.data.class_folders import synonyms
from vpjax.data.holdout import FILE as LIST
from vpjax.data.holdout import PARTS, Holdout
from vpjax.data.images import Decoding
from vpjax.data.loader import TRAIN_REMAINDERS
from vpjax.data.source import Source
from vpjax.data.subset import VAL_SHOTS, select_shots
from vpjax.data.transforms import with_augment
from vpjax.methods.base import Method
from vpjax.models import factory
from vpjax.models.factory import BackboneSpec, MethodSpec
from vpjax.models.partition import ModelParts, shapes
from vpjax.models.text.class_texts import FoundTexts, class_texts, sentences_of
from vpjax.models.text.features import class_text_features
from vpjax.nn.attention import AUTO
from vpjax.runs import loggers
from vpjax.runs.classes import ClassInfo, classes_of, training_counts
from vpjax.runs.config import NOT_OPTIONS
from vpjax.runs.inputs import ImageInputs, LoaderSettings
from vpjax.runs.startup import Startup
from vpjax.train import losses, optim, sharding, step
from vpjax.train.checkpoint import digest
from vpjax.train.evaluate import make_eval_step, primary_metric
from vpjax.train.mixing import make_mix
from vpjax.train.schedules import Plan
from vpjax.weights.load import Loaded

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
BY_HAND = "made by hand"  # config.backbone.weights of a backbone that no config describes


class BuiltModel(NamedTuple):
    """A config's model with its weights, not placed on devices yet.

    Attributes:
        parts: its parameters and graph.
        loaded: what is known of the weights file; None without one.
        attention: the implementation that runs.
        preset: name of the preprocessing.
        image_size: (height, width) of the images in pixels.
        identity: of the frozen parameters, see `identity`.
    """

    parts: ModelParts
    loaded: Loaded | None
    attention: str
    preset: str
    image_size: tuple[int, int]
    identity: dict[str, str]


class GivenModel(NamedTuple):
    """A model that exists already, and takes the place of one built from a config.

    Attributes:
        parts: its parameters and graph.
        loaded: what is known of its weights file; None without one.
        preset: name of its preprocessing; None: not known.
    """

    parts: ModelParts
    loaded: Loaded | None
    preset: str | None


class Experiment(NamedTuple):
    """Everything that a config stands for, made once for training and evaluation.

    Attributes:
        config: the resolved config.
        classes: of the data.
        sources: the data by split.
        inputs: `ImageInputs`, or `FeatureInputs` where the run trains on cached features.
        preset: name of the preprocessing.
        image_size: (height, width) of the images in pixels.
        parts: the model, with shapes in the place of arrays.
        loaded: what is known of the weights file; None without one.
        attention: the implementation that runs.
        mesh: the devices.
        plan: the length of the run.
        optimizer: of the trainable parameters; None where a run is only evaluated.
        rate: step -> learning rate, without reductions on plateaus; None likewise.
        criterion: logits, labels -> loss of each image.
        state: the state before the first step, on the devices.
        frozen: the frozen parameters, on the devices.
        eval_step: see `vpjax.train.evaluate.make_eval_step`.
        identity: of the frozen parameters, which checkpoints do not contain.
        remat: what the backward pass recomputes, see `vpjax.nn.stack.run_layers`.
        made: splits that the data lack, which were taken from train.
    """

    config: ConfigDict
    classes: ClassInfo
    sources: dict[str, Source]
    inputs: Any
    preset: str
    image_size: tuple[int, int]
    parts: ModelParts
    loaded: Loaded | None
    attention: str
    mesh: Mesh
    plan: Plan
    optimizer: Any
    rate: Callable
    criterion: Callable
    state: step.State
    frozen: dict[str, jax.Array]
    eval_step: Callable
    identity: dict[str, str]
    remat: str = "none"
    made: tuple[str, ...] = ()

    @property
    def counts(self) -> tuple[int, ...] | None:
        """Numbers of training images by class; None where counting them takes long."""
        train = self.sources.get("train")
        if self.classes.counts is not None or train is None:
            return self.classes.counts
        counts = training_counts(train)
        return None if counts is None else tuple(counts.tolist())

    @property
    def metric(self) -> str:
        """The metric that chooses checkpoints, "accuracy" or "map"."""
        return primary_metric(self.classes.multilabel)


def prepare(
    config: ConfigDict,
    startup: Startup | None = None,
    sources: Mapping[str, Source] | None = None,
    given: GivenModel | None = None,
    holdout: Holdout | None = None,
) -> Experiment:
    """Open the data, build the model and place it on the devices.

    Nothing is compiled but small initialisations. What the config leaves to measurement gets a
    simple default, see `vpjax.runs.autotune`.

    Args:
        config: the resolved config.
        startup: a stopwatch that records how long each part takes.
        sources: the data by split; None: those that `config.data` names.
        given: the model; None: it is built from the config.
        holdout: what makes missing splits; None: that of the config, see `held`.

    Raises:
        UserError: if the config, the data and the weights do not fit together.
    """
    startup = startup or Startup()
    check(config, sources)
    # float32 means float32: by default some accelerators multiply in a shorter format.
    if config.dtype == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")
    attention = resolve_attention(config)
    startup.record("model")
    holdout = holdout or held(config)
    sources = dict(sources) if sources is not None else open_sources(config, holdout)
    startup.record("data")
    train = sources["train"]
    classes = classes_of(config, train)
    criterion = make_criterion(config, train)
    mesh = sharding.make_mesh(config.mesh.data, model=config.mesh.model)
    built = build_model(config, classes, mesh, attention, given)
    parts = built.parts

    plan = make_plan(config, len(train))
    if not parts.trainable:  # nothing to learn
        plan = plan._replace(steps=0)
    settings = optim.Settings(**config.optim)
    own = registry.lookup("methods", config.method.name).no_decay
    if settings.no_decay and own:
        settings = dataclasses.replace(settings, no_decay=f"{settings.no_decay}|{own}")
    optimizer, rate = optim.make_optimizer(
        settings, parts.trainable, plan, config.match_reference_code
    )
    state = step.init_state(parts.trainable, parts.stats, optimizer, config.seed)
    found = assembled(config, classes, sources, built, mesh, plan, criterion, state)
    startup.record("model")
    remat = "none" if config.remat == AUTO else config.remat
    return found._replace(optimizer=optimizer, rate=rate, remat=remat, made=holdout.made)


def assembled(
    config: ConfigDict,
    classes: ClassInfo,
    sources: dict[str, Source],
    built: BuiltModel,
    mesh: Mesh,
    plan: Plan,
    criterion: Callable | None,
    state: step.State,
) -> Experiment:
    """Place a model and its state on the devices, beside the inputs of its steps.

    The experiment has no optimizer.

    Args:
        config, classes, sources, plan, criterion: see `Experiment`.
        built: the model.
        mesh: the devices.
        state: not placed yet.
    """
    rules = registry.lookup("methods", config.method.name).sharded
    state = sharding.place(state, mesh, rules)
    frozen = sharding.place(built.parts.frozen, mesh, rules, frozen=config.mesh.fsdp)
    parts = shapes(built.parts)  # no second copy of any number stays behind
    inputs = ImageInputs(
        graph=parts.graph,
        sources=sources,
        preset=built.preset,
        image_size=built.image_size,
        channels=config.backbone.get("channels", 3),
        dtype=config.dtype,
        settings=loader_settings(config, mesh.size),
    )
    to_input = inputs.to_input(train=config.data.val_augmented)
    return Experiment(
        config=config,
        classes=classes,
        sources=sources,
        inputs=inputs,
        preset=built.preset,
        image_size=built.image_size,
        parts=parts,
        loaded=built.loaded,
        attention=built.attention,
        mesh=mesh,
        plan=plan,
        optimizer=None,
        rate=None,
        criterion=criterion,
        state=state,
        frozen=frozen,
        eval_step=make_eval_step(parts.graph, to_input, criterion),
        identity=built.identity,
    )


def build_model(
    config: ConfigDict,
    classes: ClassInfo,
    mesh: Mesh | None = None,
    attention: str = "",
    given: GivenModel | None = None,
) -> BuiltModel:
    """Build a config's model for given classes, without any data.

    Args:
        config: the resolved config.
        classes: of the model.
        mesh: devices, for methods and frozen layers that are split over them.
        attention: the implementation that runs; "": what `resolve_attention` returns.
        given: the model; None: it is built from the config.

    Raises:
        UserError: if names, options, weights or class names do not fit.
    """
    attention = attention or resolve_attention(config)
    of_clip, key = {}, ""
    if given is not None:
        parts, loaded, _ = given
    else:
        method = registry.lookup("methods", config.method.name)
        if method.learns_texts:
            texts, key = texts_of_classes(config, classes)
            of_clip["texts"] = texts
        elif method.reads_class_names:
            text, key, scale = text_features(config, classes)
            of_clip |= {"text": text, "text_scale": scale}
        parts, loaded = factory.build(
            backbone_spec(config),
            method_spec(config),
            len(classes.names),
            seed=config.seed,
            dtype=config.dtype,
            attention=attention,
            match_reference_code=config.match_reference_code,
            trainable=config.train.trainable,
            mesh=mesh,
            fsdp=config.mesh.fsdp,
            **of_clip,
        )
    size = pair(backbone_spec(config).completed()["image_size"])
    name = preset_name(config, given)
    same = identity(config, parts, loaded, key)
    return BuiltModel(parts, loaded, attention, name, size, same)


def identity(
    config: ConfigDict, parts: ModelParts, loaded: Loaded | None, text: str = ""
) -> dict[str, str]:
    """Return what identifies the frozen parameters: checkpoints store it instead of a copy.

    Args:
        config: of the run.
        parts: the model.
        loaded: what is known of the weights file; None without one.
        text: hash of everything that the text features of the classes depend on; "": none.
    """
    if loaded is not None:
        numbers = loaded.sha256
    elif config.backbone.weights == BY_HAND:
        numbers = digest(parts.frozen)
    else:
        numbers = "drawn from the seed"
    found = {"name": config.backbone.name, "sha256": numbers}
    return found | ({"text": text} if text else {})


def backbone_spec(config: ConfigDict) -> BackboneSpec:
    """Return the section `backbone` of a config as the factory takes it."""
    section = config.backbone.to_dict()
    options = {k: v for k, v in section.items() if k not in NOT_OPTIONS and k != "name"}
    own = {k: section[k] for k in NOT_OPTIONS if k in section}
    if own.get("weights") == BY_HAND:
        own["weights"] = ""
    return BackboneSpec(section["name"], options, **own)


def method_spec(config: ConfigDict) -> MethodSpec:
    """Return the section `method` of a config as the factory takes it."""
    section = config.method.to_dict()
    if section.get("shots", 0) is None:  # of a cache of training images
        section["shots"] = config.data.shots
    return MethodSpec(section.pop("name"), section)


def abstract_model(config: ConfigDict, num_classes: int, **options: Any) -> Any:
    """Return the config's model as shapes only, see `vpjax.models.factory.abstract_model`.

    Args:
        config: the resolved config.
        num_classes: C.
        options: further arguments of `vpjax.models.factory.abstract_model`.
    """
    options["match_reference_code"] = config.match_reference_code
    specs = backbone_spec(config), method_spec(config)
    return factory.abstract_model(*specs, num_classes, **options)


def resolve_attention(config: ConfigDict) -> str:
    """Return the attention implementation that a config's model will run with."""
    check_dtype(config)  # of a run's config, which may have been edited, too
    specs = backbone_spec(config), method_spec(config)
    return factory.resolve_attention(*specs, config.attention, config.dtype)


def text_features(config: ConfigDict, classes: ClassInfo) -> Any:
    """Return the features of the classes' names from CLIP's text tower."""
    return class_text_features(
        config.backbone.weights,
        classes.names,
        classes.metadata,
        templates=config.text.templates,
        name_type=config.text.name_type,
        tokenizer=config.text.tokenizer,
        dataset=config.data.name,
    )


def texts_of_classes(config: ConfigDict, classes: ClassInfo) -> FoundTexts:
    """Return CLIP's text tower and the texts of the classes, for methods that learn prompts."""
    spec = method_spec(config)
    factory.check_towers(spec.name, config.backbone.name)
    return class_texts(
        config.backbone.weights,
        classes.names,
        classes.metadata,
        sentences_of(spec.name, spec.options),
        tokenizer=config.text.tokenizer,
        dataset=config.data.name,
    )


def decoding(config: ConfigDict) -> Decoding:
    """Return how a config's image files become pixels."""
    return Decoding(**{key: config.data[key] for key in Decoding._fields}).checked()


def held(config: ConfigDict, folder: Path | None = None) -> Holdout:
    """Return what makes the splits that a config's data lack.

    Args:
        config: of the run.
        folder: of the run, whose list of them is kept to; None: there is none.
    """
    data = config.data
    named = {synonyms(m) for s in SPLITS for m in re.findall(r"[A-Za-z]\w*", data[s])}
    wanted = [part for part in PARTS if synonyms(part) in named]
    listed = folder / LIST if folder is not None and (folder / LIST).exists() else None
    return Holdout(data.holdout, data.holdout_seed, wanted, listed)


def open_sources(config: ConfigDict, holdout: Holdout | None = None) -> dict[str, Source]:
    """Open the splits that a config names, without made ones that no class has images for."""
    holdout = holdout or held(config)
    found = {s: open_split(config, s, holdout) for s in SPLITS if config.data[s]}
    return {s: source for s, source in found.items() if len(source) or s not in holdout.made}


def open_split(config: ConfigDict, split: str, holdout: Holdout | None = None) -> Source:
    """Open the split that a config names as "train", "val" or "test".

    With `data.shots` train and val hold so many images of each class, val at most four.
    """
    data = config.data
    where = data.dir or None, data.classes, decoding(config), holdout or held(config)
    source = open_source(data.name, data[split], *where)
    if not data.shots or split == "test":
        return source
    shots = min(data.shots, VAL_SHOTS) if split == "val" else data.shots
    seed = config.seed if data.shots_seed is None else data.shots_seed
    return select_shots(source, shots, seed)


def loader_settings(config: ConfigDict, devices: int) -> LoaderSettings:
    """Return the settings of a config's batches, which are split over so many devices."""
    return LoaderSettings(
        batch_size=config.train.batch_size,
        eval_batch_size=eval_batch_size(config),
        seed=config.seed,
        remainder=config.train.remainder,
        reshuffle=config.train.reshuffle,
        images_per_class=config.train.get("images_per_class", 1),
        devices=devices,
        accumulate=config.train.accumulate,
    )


def make_criterion(
    config: ConfigDict, train: Source, counts: Sequence[int] | None = None
) -> Callable:
    """Return a config's loss, (logits, labels) -> B.

    Args:
        config: of the run.
        train: the training images, or others with the same classes.
        counts: numbers of training images by class, which may give class weights; None: those of
            `train`.

    Raises:
        UserError: for a loss that does not suit the labels.
    """
    if train.multilabel and config.train.loss == "softmax":
        raise UserError(
            f"train.loss is 'softmax', but images of {train.name} have several classes each. Use "
            "--config.train.loss=sigmoid."
        )
    weights, kind = None, config.train.class_weights
    if kind != "none":
        if counts is None:
            train.check(train.num_classes)
            counts = train.counts()
        weights = losses.class_weights(np.asarray(counts), kind)
        if absent := [c for c, w in zip(train.classes, weights, strict=True) if not w]:
            log.warning("classes without training images weigh 0: %s", ", ".join(absent))
    return losses.criterion(config.train.loss, weights, config.train.label_smoothing)


def make_plan(config: ConfigDict, examples: int) -> Plan:
    """Return the length of a run on so many training images.

    Raises:
        UserError: if the run would have no step, and none is not what the config says.
    """
    per_epoch = math.ceil(examples / config.train.batch_size)
    if config.train.remainder == "drop":
        per_epoch = examples // config.train.batch_size
    steps = config.train.steps
    if steps is None:
        steps = round(config.train.epochs * per_epoch)
    asked = config.train.epochs if config.train.steps is None else config.train.steps
    if steps < 0 or (steps == 0 and asked != 0):
        raise UserError(
            f"the run has {steps} steps, with {per_epoch} an epoch; raise train.steps or "
            "train.epochs, or lower train.batch_size"
        )
    return Plan(steps, per_epoch, config.train.batch_size)


def eval_batch_size(config: ConfigDict) -> int:
    """Return the batch size of evaluation, in images over all devices."""
    return config.data.eval_batch_size or config.train.batch_size


def weights_preset(config: ConfigDict) -> str | None:
    """Return the preprocessing that the weights were trained with; None: not known."""
    weights = "" if config.backbone.weights == BY_HAND else config.backbone.weights
    return factory.preset_of(config.backbone.name, weights)


def preset_name(config: ConfigDict, given: GivenModel | None = None) -> str:
    """Return the preprocessing, its name or its fields: the config's, or that of the weights.

    Args:
        config: of the run.
        given: the model, where it is not built from the config.

    Raises:
        UserError: if it is not known, or does not go with `data.val_augmented`.
    """
    known = config.data.preset
    if known == "auto":
        known = given.preset if given else None
        known = known or weights_preset(config)
    if known is None:
        raise UserError(
            "data.preset is 'auto', but the preprocessing of these weights is not known. Name a "
            "preset, for example --config.data.preset=inception (mean and std 0.5), or say its "
            "fields, as in bicubic,crop=0.9,mean=0.5,std=0.5."
        )
    chosen = with_augment(preset(known), config.data.get("augment", ""))
    if config.data.val_augmented and chosen.random_on_host(train=True):
        raise UserError(
            f"data.val_augmented is for augmentation on the device; preset {chosen.name!r} "
            "crops at random on the host. Set data.val_augmented=False."
        )
    return chosen.name


def check_dtype(config: ConfigDict) -> None:
    """Raise a UserError for a number format that cannot be computed with."""
    if config.dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype is {config.dtype!r}; choose 'float32' or 'bfloat16'")


def check(config: ConfigDict, sources: Mapping[str, Source] | None = None) -> None:
    """Check that a config's values exist and do not contradict each other.

    Args:
        config: of the run.
        sources: the data by split; None: those that `config.data` names.

    Raises:
        UserError: for the first mistake.
    """
    data = config.data if sources is None else {s: s if s in sources else "" for s in SPLITS}
    check_dtype(config)
    loggers.check(config.loggers)
    if config.train.loss not in losses.LOSSES:
        raise unknown("train.loss", config.train.loss, losses.LOSSES)
    if config.train.class_weights not in losses.CLASS_WEIGHTS:
        raise unknown("train.class_weights", config.train.class_weights, losses.CLASS_WEIGHTS)
    if config.train.select not in ("last", "best"):
        raise UserError(f"train.select is {config.train.select!r}; choose 'last' or 'best'")
    if not data["train"]:
        raise UserError("data.train is empty; give a split, such as 'train'")
    if (config.train.select == "best" or config.train.patience) and not data["val"]:
        raise UserError("train.select='best' and train.patience need data.val, which is empty")
    if config.optim.average_mean and (config.train.select == "best" or config.train.patience):
        raise UserError(
            "optim.average_mean makes the run end with an average over all epochs, which "
            "train.select='best' and train.patience would leave out. Set select='last' and "
            "patience=0, or average_mean=0."
        )
    if config.train.test_best and not (data["val"] and data["test"]):
        raise UserError("train.test_best needs data.val and data.test; one of them is empty")
    if config.train.remainder not in TRAIN_REMAINDERS:
        raise unknown("train.remainder", config.train.remainder, TRAIN_REMAINDERS)
    parts, size = config.train.accumulate, config.train.batch_size
    if parts < 1 or size % parts:
        raise UserError(f"train.accumulate is {parts}; it must divide train.batch_size, {size}")
    method = registry.lookup("methods", config.method.name)
    mixes = make_mix(config.train.get("mixup", 0.0), config.train.get("cutmix", 0.0)) is not None
    if mixes and (method.loss, method.loss_terms) != (Method.loss, Method.loss_terms):
        raise UserError(
            f"train.mixup and train.cutmix mix the labels of two images, and {config.method.name} "
            "has a loss of its own, which takes those of one. Set both to 0."
        )
    if config.optim.schedule == "plateau" and not data["val"]:
        raise UserError("optim.schedule='plateau' needs data.val, which is empty")
    for key in ("log_every", "eval_every"):
        if not config.train[key] > 0:
            raise UserError(f"train.{key} is {config.train[key]}; it must be above 0")
    if not config.train.epochs >= 0:
        raise UserError(f"train.epochs is {config.train.epochs}; it must be 0 or more")
