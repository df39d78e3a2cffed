"""A config, made real: data, model, mesh, optimiser. Training and evaluation both start here.

Whatever a user can get wrong is found here, before anything large is compiled.
"""

import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vpjax.core import distributed, registry
from vpjax.core.errors import Diverged, UserError, unknown
from vpjax.data import Loader, open_source, preset
from vpjax.data.loader import TRAIN_REMAINDERS, Order
from vpjax.data.source import Source
from vpjax.data.transforms import pair
from vpjax.models import factory
from vpjax.models.partition import ModelParts, shapes
from vpjax.models.text.features import class_text_features
from vpjax.nn.attention import AUTO
from vpjax.runs.startup import Startup
from vpjax.train import losses, optim, sharding, step
from vpjax.train.evaluate import Predictions, evaluate, make_eval_step
from vpjax.weights.catalog import CATALOG
from vpjax.weights.load import Loaded

log = logging.getLogger(__name__)


class Experiment(NamedTuple):
    """What a config stands for, made once and used by training and evaluation alike."""

    config: ConfigDict
    sources: dict[str, Source]  # by split: "train", "val", "test"
    preset: str
    image_size: tuple[int, int]  # pixels
    parts: ModelParts  # shapes only
    loaded: Loaded | None
    attention: str
    mesh: Mesh
    plan: optim.Plan
    optimiser: Any
    rate: Callable  # step -> learning rate, but for plateaus
    criterion: Callable  # logits, labels -> loss of each image
    loaders: dict[str, Loader]  # by split; a split is read when its loader is first asked for
    state: step.State
    frozen: dict[str, jax.Array]
    eval_step: Callable
    remat: str = "none"  # what the backward pass recomputes
    text: str = ""  # hash of what the text features of the classes depend on
    features: Any = (
        None  # vpjax.runs.features.Features, where the run works on them; None: on images
    )


def prepare(config: ConfigDict, startup: Startup | None = None) -> Experiment:
    """Opens data, builds the model, places it. Nothing is compiled but small draws.

    Choices that are left to measuring are those of the cheap rules: see `vpjax.runs.autotune`. `startup`
    is told what takes how long.
    Raises: UserError for whatever does not fit.
    """
    check(config)
    startup = startup or Startup()
    # float32 means float32: by default some accelerators multiply in a shorter format.
    if config.dtype == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")
    attention = factory.resolve_attention(config)
    startup.lap("model")
    sources = {
        split: open_source(
            config.data.name, config.data[split], config.data.dir or None, config.data.classes
        )
        for split in ("train", "val", "test")
        if config.data[split]
    }
    startup.lap("data")
    num_classes = sources["train"].num_classes
    criterion = make_criterion(config, sources["train"])
    mesh = sharding.make_mesh(config.mesh.data, model=config.mesh.model)
    sharding.check_batch(config.train.batch_size // config.train.accumulate, mesh)
    sharding.check_batch(eval_batch_size(config), mesh, "data.eval_batch_size")
    method = registry.lookup("methods", config.method.name)
    text = None
    if method.reads_class_names:
        text = class_text_features(
            config.backbone.weights,
            sources["train"].classes,
            sources["train"].metadata,
            templates=config.text.templates,
            name_type=config.text.name_type,
            tokenizer=config.text.tokenizer,
            dataset=config.data.name,
        )
    values = text.values if text else None
    parts, loaded = factory.build(config, num_classes, attention, mesh, values)
    name = preset_name(config)
    size = pair(factory.backbone_options(config)["image_size"])

    plan = make_plan(config, len(sources["train"]))
    optimiser, rate = optim.make_optimiser(
        config.optim, parts.trainable, plan, config.match_reference_code
    )
    state = step.init_state(parts.trainable, parts.stats, optimiser, config.seed)
    state = sharding.place(state, mesh, method.sharded)
    over = factory.split_over(config, mesh) is not None
    frozen = sharding.place(parts.frozen, mesh, method.sharded, frozen=over)
    parts = shapes(parts)  # no second copy of any number stays behind
    to_input = on_device(config, name, size, train=config.data.val_augmented)
    eval_step = make_eval_step(parts.graph, to_input, criterion)
    startup.lap("model")
    return Experiment(
        config=config,
        sources=sources,
        preset=name,
        image_size=size,
        parts=parts,
        loaded=loaded,
        attention=attention,
        mesh=mesh,
        plan=plan,
        optimiser=optimiser,
        rate=rate,
        criterion=criterion,
        loaders={},
        state=state,
        frozen=frozen,
        eval_step=eval_step,
        remat="none" if config.remat == AUTO else config.remat,
        text=text.key if text else "",
    )


def evaluate_metrics(experiment: Experiment, state: step.State, split: str) -> dict[str, float]:
    """Returns the numbers of a split: accuracy, loss, count and more, see `vpjax.train.evaluate`.

    Raises: UserError if the loss is no number.
    """
    return evaluate_split(experiment, state, split)[0]


def evaluate_split(
    experiment: Experiment, state: step.State, split: str
) -> tuple[dict[str, float], Predictions | None]:
    """Returns the numbers of a split, and what was said of each image; see `evaluate`."""
    key = None
    if split == "val" and experiment.config.data.val_augmented:
        key = jax.random.fold_in(jax.random.key(experiment.config.seed), 4)
        key = jax.random.fold_in(key, int(state.step))
    values, answers = evaluate(
        experiment.eval_step,
        {"trainable": state.trainable, "stats": state.stats},
        experiment.frozen,
        split_batches(experiment, split).batches(),
        experiment.mesh,
        key,
        experiment.config.data.batch_loss,
    )
    if not math.isfinite(values["loss"]):
        raise diverged(f"the loss of the {split} split is {values['loss']}", int(state.step))
    return values, answers


def diverged(what: str, step: int) -> Diverged:
    """Returns the error for a number that is none any more."""
    return Diverged(
        f"{what} at step {step}: the run has diverged. Lower optim.lr, lengthen the warm-up, or "
        "bound the gradient with optim.clip_norm=1. What was saved before is as it was."
    )


def image_loader(experiment: Experiment, split: str) -> Loader:
    """Returns the batches of a split: shuffled and endless for "train", else one pass."""
    config, training = experiment.config, split == "train"
    if split not in experiment.loaders:
        experiment.loaders[split] = Loader(
            experiment.sources[split],
            config.train.batch_size if training else eval_batch_size(config),
            preset(experiment.preset),
            experiment.image_size,
            config.seed,
            train=training,
            process_index=distributed.index(),
            process_count=distributed.count(),
            remainder=config.train.remainder if training else None,
            reshuffle=config.train.reshuffle,
        )
    return experiment.loaders[split]


def split_batches(experiment: Experiment, split: str) -> Order:
    """Returns the batches that the steps take: of images, or of features where the run has them."""
    return (
        experiment.features.loader(split)
        if experiment.features
        else image_loader(experiment, split)
    )


def on_device(config: ConfigDict, name: str, size: tuple[int, int], train: bool) -> step.Prepare:
    """Returns what turns a uint8 batch into the model's input inside a jitted step.

    With `train` it augments, unless its key is None.
    """
    chosen, dtype = preset(name), jnp.dtype(config.dtype)
    channels = config.backbone.get("channels", 3)

    def to_input(images, key):
        return chosen.device(images, size, train and key is not None, key, dtype, channels)

    return to_input


def make_criterion(config: ConfigDict, train: Source) -> Callable:
    """Returns the loss, (logits, labels) -> B, with the weights that train's classes get.

    Raises: UserError for a loss that does not suit the labels.
    """
    if train.multilabel and config.train.loss == "softmax":
        raise UserError(
            f"train.loss is 'softmax', but images of {train.name} have several classes each. Use "
            "--config.train.loss=sigmoid."
        )
    weights, kind = None, config.train.class_weights
    if kind != "none":
        train.check(train.num_classes)
        weights = losses.class_weights(train.counts(), kind)
        if absent := [c for c, w in zip(train.classes, weights, strict=True) if not w]:
            log.warning("classes without training images weigh 0: %s", ", ".join(absent))
    return losses.criterion(config.train.loss, weights, config.train.label_smoothing)


def make_plan(config: ConfigDict, examples: int) -> optim.Plan:
    """Returns the length of the run; a joined batch may span into the next epoch."""
    per_epoch = math.ceil(examples / config.train.batch_size)
    if config.train.remainder == "drop":
        per_epoch = examples // config.train.batch_size
    steps = config.train.steps
    if steps is None:
        steps = round(config.train.epochs * per_epoch)
    if steps < 1:
        raise UserError(f"the run has {steps} steps; raise train.steps or train.epochs")
    return optim.Plan(steps, per_epoch, config.train.batch_size)


def eval_batch_size(config: ConfigDict) -> int:
    """Images in a batch of evaluation."""
    return config.data.eval_batch_size or config.train.batch_size


def preset_name(config: ConfigDict) -> str:
    """Returns the preprocessing: the config's, or what the weights were made with."""
    if config.data.preset != "auto":
        chosen = preset(config.data.preset)
        if config.data.val_augmented and chosen.random_on_host(train=True):
            raise UserError(
                f"data.val_augmented is for augmentation on the device; preset {chosen.name!r} "
                "crops at random on the host. Set data.val_augmented=False."
            )
        return config.data.preset
    if own := getattr(registry.lookup("backbones", config.backbone.name), "preset", None):
        return own
    known = CATALOG.get(config.backbone.weights)
    if known is None:
        raise UserError(
            "data.preset is 'auto', but what these weights were made with is not known. Name a "
            "preset, for example --config.data.preset=inception (mean and std 0.5)."
        )
    return known.preset


def check(config: ConfigDict) -> None:
    """Raises a UserError for choices that cannot be meant."""
    if config.dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype is {config.dtype!r}; choose 'float32' or 'bfloat16'")
    if config.train.loss not in losses.LOSSES:
        raise unknown("train.loss", config.train.loss, losses.LOSSES)
    if config.train.class_weights not in losses.CLASS_WEIGHTS:
        raise unknown("train.class_weights", config.train.class_weights, losses.CLASS_WEIGHTS)
    if config.train.select not in ("last", "best"):
        raise UserError(f"train.select is {config.train.select!r}; choose 'last' or 'best'")
    if not config.data.train:
        raise UserError("data.train is empty; give a split, such as 'train'")
    if (config.train.select == "best" or config.train.patience) and not config.data.val:
        raise UserError("train.select='best' and train.patience need data.val, which is empty")
    if config.train.test_best and not (config.data.val and config.data.test):
        raise UserError("train.test_best needs data.val and data.test; one of them is empty")
    if config.train.remainder not in TRAIN_REMAINDERS:
        raise unknown("train.remainder", config.train.remainder, TRAIN_REMAINDERS)
    parts, whole = config.train.accumulate, config.train.batch_size
    if parts < 1 or whole % parts:
        raise UserError(f"train.accumulate is {parts}; it must divide train.batch_size, {whole}")
    if config.optim.schedule == "plateau" and not config.data.val:
        raise UserError("optim.schedule='plateau' needs data.val, which is empty")
    for key in ("log_every", "eval_every", "epochs"):
        if not config.train[key] > 0:
            raise UserError(f"train.{key} is {config.train[key]}; it must be above 0")
