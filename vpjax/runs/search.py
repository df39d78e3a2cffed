"""What a method chooses on the validation split when training has ended, see `Method.search`.

The run reports the numbers found, and saves them with what it has learnt, as the checkpoint
"searched". The test split plays no part.
"""

import dataclasses
import logging
from typing import Any

import jax
import numpy as np

from vpjax.models.partition import merge
from vpjax.runs.experiment import Experiment
from vpjax.runs.features import backbone_values, make_forward
from vpjax.train import sharding
from vpjax.train.step import State

log = logging.getLogger(__name__)


def searched_state(experiment: Experiment, state: State) -> tuple[State, dict[str, Any]]:
    """Return the state with what its method finds on val, and facts for the result.

    Args:
        experiment: of the run.
        state: after training.

    Returns:
        The state as it is, and {}, where the method searches nothing or there is no val split.
    """
    parts = experiment.parts
    method = jax.eval_shape(lambda: merge(*parts)).method
    if not method.searches:
        return state, {}
    if "val" not in experiment.sources:
        log.warning("warning   nothing is searched: data.val is empty; the start values stay")
        return state, {}
    features, labels = val_features(experiment)

    @jax.jit
    def search(trainable, stats, frozen, features, labels):
        model = merge(parts.graph, trainable, stats, frozen)
        return model.method.search(features, labels)

    found = search(state.trainable, state.stats, experiment.frozen, features, labels)
    found = {name: float(value) for name, value in sharding.to_host(found).items()}
    name = experiment.sources["val"].name
    text = ", ".join(f"{k} {v:.4g}" for k, v in found.items())
    log.info("search    %s, on the %d images of %s", text, len(labels), name)
    new = {f"method/{n}": np.asarray(v, np.float32) for n, v in found.items()}
    stats = state.stats | sharding.place(new, experiment.mesh, type(method).sharded)
    return dataclasses.replace(state, stats=stats), {"searched": {"on": name} | found}


def val_features(experiment: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """Return the features (n D) and labels of the validation split."""
    if experiment.inputs.cached:
        return tuple(map(np.asarray, experiment.inputs.rows("val")))
    forward, weights = make_forward(experiment), backbone_values(experiment.frozen)
    features, labels = [], []
    for batch in experiment.inputs.loader("val").batches():
        placed = sharding.put_batch(batch, experiment.mesh)
        found = forward(weights, {"image": placed["image"]})
        every = sharding.to_host({"rows": found, "label": placed["label"], "mask": placed["mask"]})
        features.append(every["rows"][every["mask"]])
        labels.append(every["label"][every["mask"]])
    return np.concatenate(features), np.concatenate(labels)
