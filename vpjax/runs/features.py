"""Training on cached features of a frozen backbone.

Where everything that trains comes after pooling (a head, MoP's sub-prompts) and images are not
augmented, an image's features are the same in every epoch, run and seed. They are computed once, as
evaluation computes them, and kept:

    <cache>/features/<key>/    see vpjax.data.features

The key is a hash of the backbone's weights, its options, the preprocessing, the dtype, and of the
split. A computation that was killed goes on where it was.
"""

import dataclasses
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vpjax.core import distributed, params, registry
from vpjax.core.errors import UserError, unknown
from vpjax.core.files import cache_folder
from vpjax.core.progress import Progress
from vpjax.data import Loader, preset
from vpjax.data.features import FeatureLoader, Rows, content, filling, read_rows
from vpjax.models.model import Model
from vpjax.models.partition import merge
from vpjax.nn.context import EVALUATION
from vpjax.nn.stack import run_layers
from vpjax.runs.experiment import Experiment, backbone_spec
from vpjax.runs.inputs import ImageInputs
from vpjax.train import sharding
from vpjax.train.checkpoint import digest
from vpjax.train.evaluate import make_eval_step

log = logging.getLogger(__name__)

CHOICES = ("auto", "cached", "off")
LARGE = 1_000_000  # parameters; features of smaller backbones are not worth a file
EVERY = 5.0  # seconds between saves


class HeadModel(Model):
    """A model that takes pooled features (B D) instead of images."""

    def __call__(
        self,
        features: Float[Array, "B D"],
        ctx: Any = EVALUATION,
        remat: str = "none",
        segments: int = 0,
    ) -> dict[str, Array]:
        return self.method.classify(features, dataclasses.replace(ctx, remat=remat))


@dataclasses.dataclass(frozen=True)
class FeatureInputs:
    """Features of the splits, computed when they are first asked for; see `vpjax.runs.inputs`.

    Attributes:
        graph: of the model that takes features.
        experiment: whose images the features are of.
        forward: parameters of the backbone, batch of images -> features B D.
        facts: everything that features depend on besides the data.
        loaders: by split.
    """

    graph: tuple
    experiment: Experiment
    forward: Callable
    facts: dict[str, Any]
    loaders: dict[str, FeatureLoader] = dataclasses.field(default_factory=dict)

    cached = True

    @property
    def images(self) -> ImageInputs:
        """The images that the features are of."""
        return self.experiment.inputs

    def to_input(self, train: bool) -> Callable:
        """Return a function batch, key -> features B D; it augments nothing."""
        return lambda batch, key: batch["features"]

    def loader(self, split: str) -> FeatureLoader:
        """Return the loader of a split, with the images in the same order as without a cache."""
        if split not in self.loaders:
            settings = self.experiment.inputs.settings.of(split)
            source = self.experiment.sources[split]
            self.loaders[split] = FeatureLoader(source, self.rows(split), **settings)
        return self.loaders[split]

    def rows(self, split: str) -> Rows:
        """Return the features of a split from the disk, after computing those that are missing."""
        source = self.experiment.sources[split]
        facts = self.facts | {"data": source.name, "content": content(source)}
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        folder = cache_folder() / "features" / key
        dim = merge(*self.experiment.parts).backbone.dim
        shapes = [(len(source), dim), (len(source), *source.label_shape)]
        with filling(folder, facts, shapes) as store:
            if store.complete:
                log.debug("features  %-5s from %s", split, folder)
            else:
                log.debug("features  %-5s computed once, for %s", split, folder)
                self.fill(store, split)
        return read_rows(folder)

    def fill(self, store: Any, split: str) -> None:
        """Compute the missing rows of a split.

        Args:
            store: of the split, from `vpjax.data.features.filling`.
            split: its name.
        """
        e, size = self.experiment, self.experiment.inputs.settings.eval_batch_size
        # As in evaluation, also for the training split: in the stored order, each image once.
        chosen, rows = preset(e.preset), {"train": False, "multiple": e.mesh.size}
        images = Loader(e.sources[split], size, chosen, e.image_size, **rows)
        weights = backbone_values(e.frozen)
        first, count = store.done // size, images.steps_per_epoch
        saved, waiting = time.monotonic(), None
        shown = {"batch_size": size, "what": f"features of {split}"}
        with Progress(count, first, stream=distributed.screen(), **shown) as progress:
            for step, batch in enumerate(images.batches(first), first):
                placed = sharding.put_batch({"image": batch["image"]}, e.mesh)
                # The device computes this batch while the one before is written to the disk.
                ready, waiting = waiting, (step, self.forward(weights, placed), batch)
                if ready is not None:
                    self.keep(store, *ready)
                    progress.update(step)
                if time.monotonic() - saved >= EVERY:
                    store.save(step * size)
                    saved = time.monotonic()
            self.keep(store, *waiting)
            store.save(store.count)
            progress.update(count)

    def keep(self, store: Any, step: int, features: Array, batch: dict[str, Any]) -> None:
        """Write the features of a batch to the store, without those of padding.

        Args:
            store: of the split.
            step: number of the batch in the split.
            features: B D.
            batch: the images, with "mask" and "label".
        """
        # A batch may be padded to a multiple of the devices.
        real, start = batch["mask"], step * self.experiment.inputs.settings.eval_batch_size
        store.write(start, np.asarray(features)[real], batch["label"][real])


def with_cached_features(experiment: Experiment) -> Experiment:
    """Return the experiment with cached features as inputs, if `config.features` allows it.

    Raises:
        UserError: if features="cached" and the experiment cannot run on features.
    """
    config, why = experiment.config, reason_against(experiment)
    if config.features not in CHOICES:
        raise unknown("features", config.features, CHOICES)
    if config.features == "cached" and why:
        raise UserError(f"features='cached' is not possible: {why}. Set --config.features=off.")
    wanted = config.features == "cached" or (config.features == "auto" and not why)
    if not wanted or (config.features == "auto" and not worth_caching(experiment)):
        return experiment
    model = merge(*experiment.parts)  # shapes
    head = HeadModel(model.backbone, model.method)
    graph = (nnx.split(head)[0], experiment.parts.graph[1])
    inputs = FeatureInputs(graph, experiment, make_forward(experiment), facts(experiment))
    eval_step = make_eval_step(graph, inputs.to_input(train=False), experiment.criterion)
    return experiment._replace(inputs=inputs, eval_step=eval_step)


def reason_against(experiment: Experiment) -> str | None:
    """Return why an experiment cannot run on features; None if it can."""
    config, parts = experiment.config, experiment.parts
    method = registry.lookup("methods", config.method.name)
    inside = [n for n in parts.trainable if n.startswith("backbone/")]
    augment = preset(experiment.preset).augment
    if config.method.get("backbone_dropout"):
        return "the backbone's dropout acts (method.backbone_dropout)"
    if not method.trains_after_pooling or inside:
        what = f"{inside[0]} trains" if inside else f"{config.method.name} works inside it"
        return f"the features change while training ({what})"
    if augment:
        return (
            f"preset {experiment.preset!r} augments training images ({', '.join(augment)}), so "
            "their features differ from epoch to epoch"
        )
    if config.train.get("mixup", 0.0) or config.train.get("cutmix", 0.0):
        return "train.mixup and train.cutmix mix images"
    if distributed.count() > 1:
        return "they are computed by one process, and this run has several"
    return None


def worth_caching(experiment: Experiment) -> bool:
    """Return whether computing features once saves time, and the disk has room for them."""
    e, dim = experiment, merge(*experiment.parts).backbone.dim
    size = sum(v.size for n, v in e.parts.frozen.items() if n.startswith("backbone/"))
    passes = e.plan.steps * e.plan.batch_size / e.classes.images
    need = 4 * dim * sum(map(len, e.sources.values()))
    folder = cache_folder()
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return size >= LARGE and passes >= 2 and shutil.disk_usage(there).free > 2 * need


def facts(experiment: Experiment) -> dict[str, Any]:
    """Return everything that features depend on besides the data, as JSON values."""
    config = experiment.config
    spec = backbone_spec(config)
    preparation = dataclasses.asdict(preset(experiment.preset))
    del preparation["name"]  # some presets are equal but for their names
    return {
        "backbone": digest(backbone_values(experiment.frozen)),
        "options": {"name": spec.name} | spec.completed(),
        "preset": preparation,
        "image_size": list(experiment.image_size),
        "dtype": config.dtype,
        "match_reference_code": config.match_reference_code,
    }


def make_forward(experiment: Experiment, train: bool = False) -> Callable:
    """Return the jitted forward(parameters of the backbone, batch of images) -> float32 B D.

    Args:
        experiment: of the run.
        train: whether images are augmented as in training; forward then takes a PRNG key too.
    """
    model = merge(*experiment.parts)  # shapes
    graphdef, like = nnx.split(model.backbone)
    method = model.method
    to_input = experiment.inputs.images.to_input(train=train)
    ctx = dataclasses.replace(EVALUATION, hook=method.tap)

    @jax.jit
    def forward(weights, batch, key=None):
        backbone = nnx.merge(graphdef, params.fill(like, weights))
        state = method.start(backbone, to_input(batch, key), ctx)
        state = run_layers(backbone.layers, state, method.step, ctx, method.num_outputs(backbone))
        return backbone.pool(state).astype(jnp.float32)

    return forward


def backbone_values(frozen: dict[str, Array]) -> dict[str, Array]:
    """Return the arrays of the backbone, by names relative to it."""
    start = "backbone/"
    return {n.removeprefix(start): v for n, v in frozen.items() if n.startswith(start)}
