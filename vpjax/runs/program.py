"""The training step of an experiment: traced, and compiled ahead of the first batch."""

import time
from collections.abc import Callable
from typing import Any

from vpjax.runs import summary
from vpjax.runs.experiment import Experiment, on_device
from vpjax.runs.features import as_they_are
from vpjax.train import step


def training_step(experiment: Experiment) -> Callable:
    """Returns the training step of an experiment, see `vpjax.train.step.make_train_step`."""
    config, features = experiment.config, experiment.features
    to_input = on_device(config, experiment.preset, experiment.image_size, train=True)
    return step.make_train_step(
        features.graph if features else experiment.parts.graph,
        experiment.optimiser,
        as_they_are if features else to_input,
        experiment.plan.steps,
        experiment.remat,
        experiment.criterion,
        config.remat_segments,
        config.train.accumulate,
    )


def compiled(experiment: Experiment, state: step.State, batch: dict[str, Any]) -> Callable:
    """Compiles the training step, and says what that took and what a step will need."""
    begin = time.perf_counter()
    out = training_step(experiment).lower(state, experiment.frozen, batch).compile()
    # The compiler counts the parts of a batch that is worked through in several as one.
    counted = experiment.plan.batch_size // experiment.config.train.accumulate
    summary.cost(out, time.perf_counter() - begin, counted)
    return out
