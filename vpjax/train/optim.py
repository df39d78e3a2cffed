"""Optimisers and learning-rate schedules, of the trainable part only.

    sgd     g + weight_decay p  ->  momentum  ->  - lr          (L2 in the gradient, as published)
    adamw   Adam's direction + weight_decay p ->  - lr          (decoupled)

    lr      rises linearly over the warm-up, then falls as half a cosine to 0

`parity` holds the rate constant within an epoch, so that the first epoch of a warm-up runs at 0:
what the published VPT code does (arXiv 2203.12119).
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vpjax import names
from vpjax.errors import UserError, unknown

OPTIMISERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "constant")


class Plan(NamedTuple):
    """How long a run is."""

    steps: int
    steps_per_epoch: int
    batch_size: int


def make_optimiser(
    config: ConfigDict, trainable: Iterable[str], plan: Plan, parity: bool = False
) -> tuple[optax.GradientTransformation, Callable]:
    """Returns the optimiser of the named parameters and its learning rate as a function of step.

    Raises: UserError for an unknown name or a number out of range.
    """
    check(config)
    rate = schedule(config, plan, parity)
    decay = dict.fromkeys(trainable, config.weight_decay > 0)
    if config.no_decay and config.weight_decay > 0:
        exempt = names.matching(config.no_decay, decay, "optim.no_decay")
        decay |= dict.fromkeys(exempt, False)
    decayed = optax.add_decayed_weights(config.weight_decay, mask=decay)
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    if config.name == "sgd":
        parts += [decayed, optax.trace(config.momentum)]
    else:
        parts += [optax.scale_by_adam(), decayed]
    return optax.chain(*parts, optax.scale_by_learning_rate(rate)), rate


def schedule(config: ConfigDict, plan: Plan, parity: bool) -> Callable:
    """Returns step -> learning rate."""
    peak = config.lr * (plan.batch_size / config.lr_per if config.lr_per else 1)
    per_epoch = plan.steps_per_epoch if parity else 1
    warmup = round(config.warmup_epochs * plan.steps_per_epoch) // per_epoch
    total = math.ceil(plan.steps / per_epoch)

    def rate(step):
        now = step // per_epoch
        # Off parity the first step already learns.
        rising = (now if parity else now + 1) / max(1, warmup)
        falling = 1.0
        if config.schedule == "cosine":
            falling = 0.5 * (1 + jnp.cos(jnp.pi * (now - warmup) / max(1, total - warmup)))
        return peak * jnp.where(now < warmup, rising, falling)

    return rate


def check(config: ConfigDict) -> None:
    """Raises a UserError if a choice cannot be meant."""
    if config.name not in OPTIMISERS:
        raise unknown("optim.name", config.name, OPTIMISERS)
    if config.schedule not in SCHEDULES:
        raise unknown("optim.schedule", config.schedule, SCHEDULES)
    for key in ("lr", "lr_per", "weight_decay", "warmup_epochs", "clip_norm"):
        if not config[key] >= 0:
            raise UserError(f"optim.{key} is {config[key]}; it must be 0 or more")
    if not 0 <= config.momentum < 1:
        raise UserError(f"optim.momentum is {config.momentum}; it must be in [0, 1)")
