"""Cases of an optimizer: recorded gradients go in, parameters after every step come out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tests.golden import training
from tests.golden.comparison import Comparison, limits, scaled
from tests.golden.record import Record
from vpjax.train.optim import HEAD_BIAS


def compare(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield the learning rate of every epoch and the parameters after every step."""
    meta.ignore("case", "groups")
    names, per_epoch = meta["trainable"], meta["steps_per_epoch"]
    plan = training.Plan(meta["total_epoch"] * per_epoch, per_epoch, 1)
    optimizer, rate = training.make_optimizer(settings(meta), map(ours, names), plan, True)
    params = {ours(n): jnp.asarray(arrays[f"init/{n}"]) for n in names}
    state, allowed = optimizer.init(params), limits(meta["tolerance"])
    adaptive = any(hasattr(part, "mu") for part in state)
    meta.expect("optimizer_class_really_used", *(("Adam", "AdamW") if adaptive else ("SGD",)))
    for epoch, lr in enumerate(arrays["lr_first_group_by_epoch"]):
        yield scaled(f"lr {epoch}", rate(epoch * per_epoch), lr, **allowed)
    update = jax.jit(optimizer.update)
    for step in range(plan.steps):
        grads = {ours(n): jnp.asarray(arrays[f"grad/{step}/{n}"]) for n in names}
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for n in names:
            recorded = arrays[f"after/{step + 1}/{n}"]
            yield scaled(f"{n} after {step + 1}", params[ours(n)], recorded, **allowed)
    # A parameter that does not train stays as it was, in ours by not being handed over.
    for name in arrays:
        if name.startswith("after/") and (frozen := name.split("/", 2)[2]) not in names:
            yield Comparison(name, arrays[f"init/{frozen}"], arrays[name], 0.0)


def settings(meta: Record) -> Any:
    """Return the optimizer's settings, all taken from the case."""
    return training.settings(
        name=meta["optimizer"],
        lr=meta["base_lr"],
        momentum=meta["momentum"],
        weight_decay=meta["weight_decay"],
        bias_multiplier=float(meta["bias_multiplier"]),
        schedule=meta["scheduler"],
        warmup_epochs=float(meta["warmup_epoch"]),
    )


def ours(name: str) -> str:
    """Return our name of a parameter; the last bias is exempt from decay under its own."""
    return HEAD_BIAS if name == "head.last_layer.bias" else name.replace(".", "/")
