"""Where a method's training begins, if that is made from images of the training set.

A method with a hook `choose_images` names them, and its `start_values` gets them all at once,
prepared as for evaluation. It is seeded by the run, so that a run that is continued finds the same.
"""

import dataclasses
import logging

import jax
import numpy as np

from vpjax.data import Loader, preset
from vpjax.data.pick import pick
from vpjax.models.partition import merge
from vpjax.runs.experiment import Experiment
from vpjax.train import sharding

log = logging.getLogger(__name__)


def with_start_values(experiment: Experiment) -> Experiment:
    """Return the experiment with the values that its method makes from training images.

    Args:
        experiment: with a fresh model; it is returned as it is if its method makes none.
    """
    parts, state, config = experiment.parts, experiment.state, experiment.config
    method = jax.eval_shape(lambda: merge(parts.graph, *parts[1:])).method
    source = experiment.sources["train"]
    chosen = method.choose_images(source.labels(), np.random.default_rng(config.seed))
    if chosen is None:
        return experiment
    some = pick(source, chosen, source.name)
    settings = preset(experiment.preset), experiment.image_size
    batch = Loader(some, len(chosen), *settings, train=False, keep=False).batch(0)  # all processes
    to_input = experiment.inputs.images.to_input(train=False)

    @jax.jit
    def values(trainable, stats, frozen, batch):
        model = merge(parts.graph, trainable, stats, frozen)
        key = jax.random.fold_in(jax.random.key(config.seed), 4)
        images = to_input(batch, None)
        return model.method.start_values(model.backbone, images, batch["label"], key)

    made = sharding.to_host(values(state.trainable, state.stats, experiment.frozen, batch))
    made = {f"method/{name}": value for name, value in made.items()}
    log.info("start     %d arrays made from %d training images", len(made), len(chosen))

    def put(held):
        new = {n: np.asarray(v, held[n].dtype) for n, v in made.items() if n in held}
        return held | sharding.place(new, experiment.mesh, type(method).sharded)

    state = dataclasses.replace(state, trainable=put(state.trainable))
    return experiment._replace(state=state, frozen=put(experiment.frozen))
