"""Where a method's training begins, if that is made from images of the training set.

A method with `begun` names them in its hook `choose_images`, and its `start_values` gets them all
at once, prepared as for evaluation. A run does this before its first step only: what was made is
part of every checkpoint, as `begun` is, so a run that goes on, a model that is loaded and a model
that has been trained before keep what they have.
"""

import dataclasses
import logging

import jax
import numpy as np

from vpjax.core.errors import UserError
from vpjax.data import Loader, preset
from vpjax.data.pick import pick
from vpjax.models.partition import merge
from vpjax.runs.experiment import Experiment
from vpjax.train import sharding
from vpjax.train.step import State

log = logging.getLogger(__name__)

BEGUN = "method/begun"


def with_start_values(experiment: Experiment) -> State:
    """Return the state before the first step, with what its method makes from training images.

    Args:
        experiment: its state is returned as it is if the method makes nothing, or has before.

    Raises:
        UserError: if the method cannot begin from these data, or what it makes does not train.
    """
    parts, state, config = experiment.parts, experiment.state, experiment.config
    if BEGUN not in state.stats or sharding.to_host(state.stats[BEGUN]):
        return state
    method = jax.eval_shape(lambda: merge(parts.graph, *parts[1:])).method
    source = experiment.sources["train"]
    chosen = method.choose_images(source.labels(), np.random.default_rng(config.seed))
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
    made = {f"method/{name}": value for name, value in made.items()} | {BEGUN: 1.0}
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
