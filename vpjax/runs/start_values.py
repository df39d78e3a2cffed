"""Where a method's training begins, if that is made from images of the training set.

A method with `begun` names them in its hook `choose_images`. Its `start_values` gets them all at
once, prepared as for evaluation; or, with `start_passes`, their features, which are computed in
batches and so need little memory. A run does this before its first step only: what was made is part
of every checkpoint, as `begun` is, so a run that goes on, a model that is loaded and one that has
been trained before keep what they have.
"""

import dataclasses
import logging
import time
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from vpjax.core import distributed
from vpjax.core.errors import UserError
from vpjax.core.progress import Progress
from vpjax.data import Loader, preset
from vpjax.data.pick import pick
from vpjax.data.source import Source
from vpjax.models.partition import merge
from vpjax.runs.experiment import Experiment
from vpjax.runs.features import backbone_values, make_forward
from vpjax.train import sharding
from vpjax.train.step import State

log = logging.getLogger(__name__)


def with_start_values(experiment: Experiment) -> State:
    """Return the state before the first step, with what its method makes from training images.

    Args:
        experiment: its state is returned as it is if the method makes nothing, or has before.

    Raises:
        UserError: if the method cannot begin from these data, or what it makes does not train.
    """
    parts, state, config = experiment.parts, experiment.state, experiment.config
    begun = next((n for n in state.stats if n.endswith("/begun")), None)
    if begun is None or sharding.to_host(state.stats[begun]):
        return state
    method = jax.eval_shape(lambda: merge(parts.graph, *parts[1:])).method
    source = experiment.sources["train"]
    chosen = method.choose_images(source.labels(), np.random.default_rng(config.seed))
    some = pick(source, chosen, source.name)
    if method.start_passes:
        batch = {"label": some.labels(), "features": features_of(experiment, some, chosen, method)}
    else:
        settings = preset(experiment.preset), experiment.image_size
        loader = Loader(some, len(chosen), *settings, train=False, keep=False)
        batch = loader.batch(0)  # all processes
    to_input = experiment.inputs.images.to_input(train=False)

    @jax.jit
    def values(trainable, stats, frozen, batch):
        model = merge(parts.graph, trainable, stats, frozen)
        key = jax.random.fold_in(jax.random.key(config.seed), 4)
        images = batch["features"] if method.start_passes else to_input(batch, None)
        return model.method.start_values(model.backbone, images, batch["label"], key)

    made = sharding.to_host(values(state.trainable, state.stats, experiment.frozen, batch))
    made = {f"method/{name}": value for name, value in made.items()} | {begun: 1.0}
    if lost := made.keys() - state.trainable.keys() - state.stats.keys():
        raise UserError(
            f"{config.method.name} makes {min(lost)} from training images, and train.trainable "
            f"leaves it out, so no run would save it: let it train, or use another method."
        )
    log.info("start     made from %d training images", len(chosen))

    def put(held):
        new = {n: np.asarray(v, held[n].dtype) for n, v in made.items() if n in held}
        return held | sharding.place(new, experiment.mesh, type(method).sharded)

    return dataclasses.replace(state, trainable=put(state.trainable), stats=put(state.stats))


def features_of(
    experiment: Experiment, source: Source, chosen: np.ndarray, method: Any
) -> Float32[np.ndarray, "S D"]:
    """Return the features of training images, means over the method's `start_passes`.

    Each pass augments them anew, as training does, and has them in the same order. Where nothing is
    random one pass is enough; where features are cached, they are read.

    Args:
        experiment: of the run.
        source: the images.
        chosen: their numbers in the training split.
        method: of the model, which may consist of shapes only.
    """
    if experiment.inputs.cached:  # never of augmented images
        return np.array(experiment.inputs.rows("train").features[chosen])
    settings, size = preset(experiment.preset), experiment.inputs.settings.eval_batch_size
    several = distributed.count() > 1  # then each process computes all
    loader = Loader(
        source,
        min(size, len(source)),
        settings,
        experiment.image_size,
        train=False,
        seed=experiment.config.seed,
        multiple=1 if several else experiment.mesh.size,
        keep=False,
        augment=True,
    )
    passes = method.start_passes if settings.augment else 1
    forward, weights = make_forward(experiment, train=True), backbone_values(experiment.frozen)
    key = jax.random.fold_in(jax.random.key(experiment.config.seed), 5)
    count, begin = passes * loader.steps_per_epoch, time.monotonic()
    total = np.zeros((len(source), merge(*experiment.parts).backbone.dim), np.float64)
    shown = {"batch_size": loader.batch_size, "what": "features of the cache"}
    with Progress(count, 0, stream=distributed.screen(), **shown) as progress:
        for step, batch in enumerate(loader.batches(stop=count)):
            image = {"image": batch["image"]}
            placed = image if several else sharding.put_batch(image, experiment.mesh)
            found = forward(weights, placed, jax.random.fold_in(key, step))
            rows = loader.indices(step)
            total[rows[rows >= 0]] += sharding.to_host(found)[rows >= 0]
            progress.update(step + 1)
    seconds = time.monotonic() - begin
    log.debug("features  of %d images, %d passes, %.1f s", len(source), passes, seconds)
    return (total / passes).astype(np.float32)
