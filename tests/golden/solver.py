"""Cases of an optimiser: recorded gradients go in, parameters after every step come out."""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from tests.golden.runner import Comparison
from vpjax.runs import defaults
from vpjax.train.optim import HEAD_BIAS, Plan, make_optimiser


def compare(meta: dict, arrays: dict, folder: Path) -> Iterator[Comparison]:
    """Yields ours beside what was recorded, after every step."""
    names = meta["trainable"]
    plan = Plan(meta["total_epoch"] * meta["steps_per_epoch"], meta["steps_per_epoch"], 1)
    optimiser, rate = make_optimiser(
        settings(meta), map(ours, names), plan, match_reference_code=True
    )
    params = {ours(n): jnp.asarray(arrays[f"init/{n}"]) for n in names}
    state, limits = optimiser.init(params), meta["tolerance"]
    for epoch, lr in enumerate(arrays["lr_first_group_by_epoch"]):
        yield Comparison(f"lr {epoch}", rate(epoch * plan.steps_per_epoch), lr, **limits)
    update = jax.jit(optimiser.update)
    for step in range(plan.steps):
        grads = {ours(n): jnp.asarray(arrays[f"grad/{step}/{n}"]) for n in names}
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for n in names:
            recorded = arrays[f"after/{step + 1}/{n}"]
            yield Comparison(f"{n} after {step + 1}", params[ours(n)], recorded, **limits)


def settings(meta: dict) -> ConfigDict:
    """Returns the optimiser's section of a config."""
    config = defaults.get_config().optim
    config.update(
        name=meta["optimizer"],
        lr=meta["base_lr"],
        lr_base_batch_size=0,
        momentum=meta["momentum"],
        weight_decay=meta["weight_decay"],
        bias_multiplier=float(meta["bias_multiplier"]),
        schedule=meta["scheduler"],
        warmup_epochs=float(meta["warmup_epoch"]),
    )
    return config


def ours(name: str) -> str:
    """The last bias is exempt from decay under its own name."""
    return HEAD_BIAS if name == "head.last_layer.bias" else name.replace(".", "/")
