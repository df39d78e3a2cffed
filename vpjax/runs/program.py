"""The training step of an experiment: traced, and compiled ahead of the first batch."""

import time
from collections.abc import Callable
from typing import Any

from vpjax.runs import summary
from vpjax.runs.experiment import Experiment
from vpjax.train import step


def training_step(experiment: Experiment) -> Callable:
    """Return the training step of an experiment, see `vpjax.train.step.make_train_step`."""
    config, inputs = experiment.config, experiment.inputs
    return step.make_train_step(
        inputs.graph,
        experiment.optimizer,
        inputs.to_input(train=True),
        experiment.plan.steps,
        experiment.remat,
        experiment.criterion,
        config.remat_segments,
        config.train.accumulate,
    )


def compiled(experiment: Experiment, state: step.State, batch: dict[str, Any]) -> Callable:
    """Compile the training step, and log how long that took and what a step will need."""
    begin = time.perf_counter()
    out = training_step(experiment).lower(state, experiment.frozen, batch).compile()
    # The compiler counts the parts of a batch that is worked through in several as one.
    counted = experiment.plan.batch_size // experiment.config.train.accumulate
    summary.log_cost(out, time.perf_counter() - begin, counted)
    return out
