"""Evaluation of an experiment on one of its splits."""

import math

import jax

from vpjax.core.errors import Diverged
from vpjax.runs.experiment import Experiment
from vpjax.train.evaluate import Predictions, evaluate
from vpjax.train.step import State


def evaluate_split(
    experiment: Experiment, state: State, split: str
) -> tuple[dict[str, float], Predictions | None]:
    """Evaluate an experiment on a split.

    Args:
        experiment: from `prepare`.
        state: the weights, with the step they are of.
        split: "train", "val" or "test".

    Returns:
        The metrics, see `vpjax.train.evaluate`, and the predictions; these are None where images
        have several classes.

    Raises:
        Diverged: if the loss is infinite or NaN.
    """
    key = None
    if split == "val" and experiment.config.data.val_augmented:
        key = jax.random.fold_in(jax.random.key(experiment.config.seed), 4)
        key = jax.random.fold_in(key, int(state.step))
    values, predictions = evaluate(
        experiment.eval_step,
        {"trainable": state.trainable, "stats": state.stats},
        experiment.frozen,
        experiment.inputs.loader(split).batches(),
        experiment.mesh,
        key,
        experiment.config.data.batch_loss,
    )
    if not math.isfinite(values["loss"]):
        raise diverged(f"the loss of the {split} split is {values['loss']}", int(state.step))
    return values, predictions


def evaluate_metrics(experiment: Experiment, state: State, split: str) -> dict[str, float]:
    """Return the metrics of a split without its predictions; see `evaluate_split`."""
    return evaluate_split(experiment, state, split)[0]


def diverged(what: str, step: int) -> Diverged:
    """Return the error for a loss or a gradient that is infinite or NaN.

    Args:
        what: it was, such as "the loss is nan".
        step: of the run.
    """
    return Diverged(
        f"{what} at step {step}: the run has diverged. Lower optim.lr, lengthen the warm-up, or "
        "bound the gradient with optim.clip_norm=1. Earlier checkpoints are kept."
    )
