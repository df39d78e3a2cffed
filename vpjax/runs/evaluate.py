"""Evaluation of an experiment on one of its splits."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vpjax.core.errors import Diverged
from vpjax.runs.experiment import Experiment
from vpjax.train.calibration import tempered
from vpjax.train.evaluate import Predictions, SeveralPredictions, evaluate
from vpjax.train.step import State


def evaluate_split(
    experiment: Experiment, state: State, split: str, look: Callable | None = None
) -> tuple[dict[str, float], Predictions | SeveralPredictions, list[Any]]:
    """Evaluate an experiment on a split.

    Args:
        experiment: from `prepare`.
        state: the weights, with the step they are of.
        split: "train", "val" or "test".
        look: at the logits of each batch, see `vpjax.train.evaluate.evaluate`.

    Returns:
        The metrics, see `vpjax.train.evaluate`; the predictions; and what `look` returned.

    Raises:
        Diverged: if the loss is infinite or NaN.
    """
    key = None
    if split == "val" and experiment.config.data.val_augmented:
        key = jax.random.fold_in(jax.random.key(experiment.config.seed), 4)
        key = jax.random.fold_in(key, int(state.step))
    values, predictions, seen = evaluate(
        experiment.eval_step,
        {"trainable": state.trainable, "stats": state.stats},
        experiment.frozen,
        experiment.inputs.loader(split).batches(),
        experiment.mesh,
        key,
        experiment.config.data.batch_loss,
        look,
    )
    if not math.isfinite(values["loss"]):
        raise diverged(f"the loss of the {split} split is {values['loss']}", int(state.step))
    return values, predictions, seen


def predict_split(
    experiment: Experiment, state: State, split: str, temperature: float | None = None
) -> tuple[dict[str, float], Predictions | SeveralPredictions]:
    """Return the metrics of a split and its predictions, at a temperature as well if one is known.

    Args:
        experiment: from `prepare`.
        state: the weights.
        split: "val" or "test".
        temperature: of the run; None: none is known.

    Raises:
        Diverged: if the loss is infinite or NaN.
    """
    look = None if temperature is None else tempered(temperature)
    values, predictions, seen = evaluate_split(experiment, state, split, look)
    return values, with_temperature(predictions, temperature, seen)


def with_temperature(
    predictions: Predictions | SeveralPredictions, temperature: float | None, seen: list[np.ndarray]
) -> Predictions | SeveralPredictions:
    """Return predictions with the probabilities at a temperature.

    Args:
        predictions: of a split.
        temperature: None: none is known.
        seen: what `vpjax.train.calibration.tempered` returned of each batch.
    """
    if temperature is None or not seen or not isinstance(predictions, Predictions):
        return predictions
    found = np.concatenate(seen)
    return predictions._replace(temperature=temperature, tempered=found[found >= 0])  # no padding


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
