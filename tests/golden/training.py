"""Every call of the library's training that the recorded cases make.

The cases train through the library's own step, optimizer and evaluation, never through a loop of
their own. The calls stand here, once, because their form changes more often than what they do.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.golden.record import NotUnderstood
from vpjax.models.partition import ModelParts
from vpjax.nn.context import Context
from vpjax.runs import fit
from vpjax.train import evaluate, optim, parity, schedules, sharding, step
from vpjax.train.checkpoint import Checkpoints
from vpjax.train.losses import softmax

Plan, State = schedules.Plan, step.State
# Whatever a case does not state is off; nothing comes from the defaults of a recipe.
NEUTRAL = {
    "lr_base_batch_size": 0,
    "weight_decay": 0.0,
    "no_decay": "",
    "warmup_epochs": 0.0,
    "min_lr": 0.0,
    "clip_norm": 0.0,
    "bias_multiplier": 1.0,
}


def filled(parts: ModelParts, values: Mapping[str, Any]) -> ModelParts:
    """Return the parts of a model with recorded parameters, by their names.

    Raises:
        NotUnderstood: One is missing, or the model that `meta` describes has another shape there.
    """
    shapes = {name: array.shape for part in parts[1:] for name, array in part.items()}
    if missing := sorted(shapes.keys() - values.keys()):
        raise NotUnderstood(f"nothing is recorded for {missing}")
    for name, shape in shapes.items():
        if values[name].shape != shape:
            found = f"recorded {values[name].shape}, the model of meta has {shape}"
            raise NotUnderstood(f"shape of {name}: {found}")
    fill = lambda part: {n: jnp.asarray(values[n]) for n in part}  # noqa: E731
    return ModelParts(parts.graph, *map(fill, parts[1:]))


def settings(**options: Any) -> Any:
    """Return the settings of an optimizer: `options`, and `NEUTRAL` for what they leave out."""
    return optim.Settings(**NEUTRAL | options)


def make_optimizer(
    settings: Any, trainable: Iterable[str], plan: Plan, match_reference_code: bool = False
) -> tuple[Any, Callable]:
    """Return the optimizer of the named parameters, and step -> learning rate."""
    return optim.make_optimizer(settings, trainable, plan, match_reference_code)


def schedule(settings: Any, plan: Plan, match_reference_code: bool = False) -> np.ndarray:
    """Return the learning rates of all steps and of the one after the last, [steps + 1]."""
    make = parity.reference_schedule if match_reference_code else schedules.make_schedule
    rate = make(settings, plan)
    return np.asarray(rate(np.arange(plan.steps + 1)))


def learning_rate(rate: Callable, state: State, step: int) -> float:
    """Return the learning rate of a step."""
    return optim.learning_rate(rate, state.opt, step)


def decayed(settings: Any, trainable: Iterable[str]) -> set[str]:
    """Return the names of the parameters that decay."""
    return {n for n, yes in optim.decay_mask(settings, trainable).items() if yes}


def as_they_are(batch: Mapping[str, Any], key: Any) -> Any:
    """Return the images of a batch: cases record them as the model takes them."""
    return batch["image"]


def start(parts: ModelParts, optimizer: Any) -> State:
    """Return the state before the first step; nothing random depends on its seed."""
    return step.init_state(parts.trainable, parts.stats, optimizer, 0)


def make_step(
    parts: ModelParts, optimizer: Any, steps: int, accumulate: int = 1
) -> Callable[[State, dict], tuple[State, dict]]:
    """Return (state, batch) -> state, numbers: one step of the library; `state` is donated.

    Args:
        parts: The model; images reach it as they are.
        optimizer: As `make_optimizer` returns it.
        steps: Length of the run.
        accumulate: Parts that a batch is worked through in: part i has the images i, i +
            accumulate, i + 2 accumulate ...
    """
    train = step.make_train_step(parts.graph, optimizer, as_they_are, steps, accumulate=accumulate)
    return lambda state, batch: train(state, parts.frozen, batch)


def make_evaluation(parts: ModelParts) -> Callable[[State, Iterable[dict]], dict]:
    """Return (state, batches) -> numbers; "batch_loss" is the mean of the batches' losses."""
    eval_step = evaluate.make_eval_step(parts.graph, as_they_are)
    mesh = sharding.make_mesh(1)

    def numbers(state: State, batches: Iterable[dict]) -> dict[str, float]:
        weights = {"trainable": state.trainable, "stats": state.stats}
        return evaluate.evaluate(eval_step, weights, parts.frozen, batches, mesh, batch_loss=True)[
            0
        ]

    return numbers


def saved_and_restored(state: State) -> State:
    """Write a checkpoint of a state and read it back."""
    state = jax.tree.map(jnp.asarray, state)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(Checkpoints(Path(folder))) as checkpoints,
    ):
        checkpoints.save(state, {})
        items, _ = checkpoints.restore(state)
    return State(**items["weights"], **items["optimizer"])


def averaged(numbers: list[dict], now: int) -> dict[str, float]:
    """Return what steps reported, averaged over images; `now` counts the steps done so far."""
    return fit.average_metrics(numbers, now)


def losses(model: Any, out: Mapping[str, Any], labels: Any, ctx: Context) -> jax.Array:
    """Return the loss of each image."""
    return model.method.loss(out, labels, softmax, ctx)


def loss_terms(model: Any, out: Mapping[str, Any], labels: Any, ctx: Context) -> dict:
    """Return "loss" and what else the method reports, each of every image or one number."""
    return model.method.loss_terms(out, labels, softmax, ctx)


def batch(images: Any, labels: np.ndarray, size: int | None = None) -> dict[str, np.ndarray]:
    """Return a batch of `size` images, padded as the library's loader pads; None: no padding."""
    images, labels = np.asarray(images), np.asarray(labels).astype(np.int32)
    more = (size or len(labels)) - len(labels)
    return {
        "image": np.pad(images, ((0, more), *((0, 0),) * (images.ndim - 1))),
        "label": np.pad(labels, (0, more)),
        "mask": np.arange(len(labels) + more) < len(labels),
    }


def interleaved(parts: jax.Array | np.ndarray) -> jax.Array:
    """Return one batch of parts [k, B, ...], which a step with accumulate=k takes apart again."""
    parts = jnp.asarray(parts)
    return jnp.swapaxes(parts, 0, 1).reshape(-1, *parts.shape[2:])
