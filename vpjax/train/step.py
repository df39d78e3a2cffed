"""The jitted training step.

Gradients, optimizer state and returned arrays exist for the trainable part only. The frozen part is
an argument that is neither donated nor returned. Images arrive as uint8; augmentation and
normalisation are part of the step.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vpjax.models.partition import merge, partition
from vpjax.nn.context import Context
from vpjax.train import losses
from vpjax.train.mixing import mixed_criterion

ToInput = Callable  # batch, key or None -> what the model takes: images normalised, or features


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "trainable", "stats", "opt", "key"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class State:
    """Everything that changes while training.

    Attributes:
        step: int32, optimizer steps done.
        trainable: parameters by name.
        stats: running averages by name.
        opt: state of the optimizer.
        key: uint32 data of a PRNG key, which all randomness of the run comes from.
    """

    step: Any
    trainable: dict[str, Any]
    stats: dict[str, Any]
    opt: Any
    key: Any


def init_state(
    trainable: dict[str, Any],
    stats: dict[str, Any],
    optimizer: optax.GradientTransformation,
    seed: int,
) -> State:
    """Return the state before the first step.

    Its arrays are copies, as the state will be donated.

    Args:
        trainable: parameters by name.
        stats: running averages by name.
        optimizer: of the trainable parameters.
        seed: of all randomness while training.
    """

    def init(trainable, stats):
        key = jax.random.key_data(jax.random.fold_in(jax.random.key(seed), 2))
        return State(jnp.zeros((), jnp.int32), trainable, stats, optimizer.init(trainable), key)

    return jax.jit(init)(trainable, stats)


def make_train_step(
    graph: tuple,
    optimizer: optax.GradientTransformation,
    to_input: ToInput,
    steps: int,
    remat: str = "none",
    criterion: Callable = losses.softmax,
    segments: int = 0,
    accumulate: int = 1,
    mix: Callable | None = None,
    epoch: int = 0,
) -> Callable:
    """Return the jitted step(state, frozen, batch) -> state, metrics; `state` is donated.

    A batch holds what `to_input` reads ("image": uint8 B H W C, or "features": float32 B D),
    "label" (int32 B, or B C of zeros and ones) and "mask" (bool B, False for padding).

    Args:
        graph: of the model, see `vpjax.models.partition`.
        optimizer: of the trainable parameters.
        to_input: batch, key -> what the model takes; augments and normalises.
        steps: the length of the run, which a method's annealing follows.
        remat: what the backward pass recomputes, see `vpjax.nn.stack.run_layers`.
        criterion: logits, labels -> loss of each image; its mean over unmasked images is minimised.
        segments: into how many groups layers are split for `remat`; 0: each layer is one.
        accumulate: into how many parts a batch is split, which are computed one after the other,
            and whose gradients are added up: less memory, the same step.
        mix: of `vpjax.train.mixing.make_mix`; None: images are not mixed.
        epoch: steps of an epoch, for `Context.epoch`; 0: not known.

    Returns:
        The metrics are means over unmasked images: "loss", the other terms of the method,
        "accuracy" (percent, where images have one class), and "grad_norm", "images" (a count).

    Raises:
        UserError: when traced, if `remat` or `segments` do not suit the model.
    """

    def gradient(state, stats, frozen, batch, key):
        """Return gradient and metrics of (part of) a batch, and the running averages after it."""
        inputs = to_input(batch, jax.random.fold_in(key, 0))
        weight, labels = batch["weight"], batch["label"]
        compare = criterion
        if mix is not None:
            inputs, share = mix(inputs, weight, jax.random.fold_in(key, 2))
            compare = mixed_criterion(criterion, share)
        ctx = Context(
            key=jax.random.fold_in(key, 1),
            progress=state.step / steps,
            epoch=state.step / epoch if epoch else 0.0,
            mask=weight > 0,
        )

        def loss_fn(trainable):
            model = merge(graph, trainable, stats, frozen)
            out = model(inputs, ctx, remat, segments)
            terms = model.method.loss_terms(out, labels, compare, ctx)
            numbers = {name: (term * weight).sum() for name, term in terms.items()}
            loss = numbers["loss"]
            if labels.ndim == 1:
                correct = out["logits"].argmax(-1) == labels
                numbers["accuracy"] = 100 * (correct * weight).sum()
            return loss, (numbers, partition(model).stats)

        (_, (numbers, stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.trainable)
        return (grads, numbers), stats

    def train_step(state, frozen, batch):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        images = batch["mask"].sum()
        weight = batch["mask"] / jnp.maximum(1, images)
        batch = {k: v for k, v in batch.items() if k != "mask"} | {"weight": weight}
        if accumulate == 1:
            (grads, numbers), stats = gradient(state, state.stats, frozen, batch, key)
        else:
            # Every k-th image, so that each part is spread over all devices as the batch is.
            parts = {k: v.reshape(-1, accumulate, *v.shape[1:]) for k, v in batch.items()}
            part = lambda i: {k: v[:, i] for k, v in parts.items()}  # noqa: E731

            def add(carried, i):
                total, stats = carried
                more, stats = gradient(state, stats, frozen, part(i), jax.random.fold_in(key, i))
                return (jax.tree.map(jnp.add, total, more), stats), None

            like, _ = jax.eval_shape(lambda: gradient(state, state.stats, frozen, part(0), key))
            nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
            start = nothing, state.stats
            ((grads, numbers), stats), _ = jax.lax.scan(add, start, jnp.arange(accumulate))
        updates, opt = optimizer.update(grads, state.opt, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        limits = merge(graph, trainable, stats, frozen).method.limits
        trainable = {name: limited(name, value, limits) for name, value in trainable.items()}
        numbers |= {"grad_norm": optax.tree.norm(grads), "images": images}
        return State(state.step + 1, trainable, stats, opt, state.key), numbers

    return jax.jit(train_step, donate_argnums=0)


def limited(name: str, value: jax.Array, limits: Mapping[str, tuple[float, float]]) -> jax.Array:
    """Return a parameter cut to the bounds of the first expression that matches its name."""
    found = next((bounds for rule, bounds in limits.items() if re.fullmatch(rule, name)), None)
    return value if found is None else jnp.clip(value, *found)
