"""The training step of an experiment, compiled before its first batch."""

import time
from collections.abc import Callable
from typing import Any

from vpjax.core import distributed
from vpjax.core.progress import waiting
from vpjax.runs import summary
from vpjax.runs.experiment import Experiment
from vpjax.train import step
from vpjax.train.mixing import make_mix


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
        make_mix(config.train.get("mixup", 0.0), config.train.get("cutmix", 0.0)),
        experiment.plan.steps_per_epoch,
    )


def compiled(experiment: Experiment, state: step.State, batch: dict[str, Any]) -> Callable:
    """Return the compiled training step; log how long compiling took and what a step needs.

    Args:
        experiment: of the run.
        state: of the same shapes as all later ones.
        batch: likewise.
    """
    begin = time.perf_counter()
    text = "compiling, mostly 5 to 60 s, minutes for large models"
    with waiting(text, distributed.screen()):
        out = training_step(experiment).lower(state, experiment.frozen, batch).compile()
    # With `accumulate` the compiler counts the work of one part of a batch only.
    counted = experiment.plan.batch_size // experiment.config.train.accumulate
    summary.log_cost(out, time.perf_counter() - begin, counted)
    return out
