"""Optimisers and learning-rate schedules, of the trainable part only.

    sgd     g + weight_decay p  ->  momentum              ->  - lr      (L2 in the gradient)
    adam    g + weight_decay p  ->  Adam's direction      ->  - lr      (L2 in the gradient)
    adamw   g  ->  Adam's direction, + weight_decay p     ->  - lr      (decoupled)

    lr      rises linearly over the warm-up, then follows half a cosine, several, or stays;
            "plateau" stays too, until `reduce` lowers it because validation no longer improves

`parity` repeats the published VPT code (arXiv 2203.12119):

    sgd, adam  everything decays but the head's last bias
    adamw      decays by 0.01 whatever `weight_decay` says, after the step, all but names with
               "bias" in them, and knows no bias_multiplier; without weight decay it is sgd
    lr         constant within an epoch, so that the first epoch of a warm-up runs at 0
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vpjax import names
from vpjax.errors import UserError, unknown

OPTIMISERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "cosine_hardrestart", "constant", "plateau")
HEAD_BIAS = "method/head/bias"  # of the last layer
PUBLISHED_DECAY = 0.01


class Plan(NamedTuple):
    """How long a run is."""

    steps: int
    steps_per_epoch: int
    batch_size: int


class RateState(NamedTuple):
    """Where the learning rate is: the last part of every optimiser's state."""

    count: Any  # int32, steps done
    scale: Any  # float32, what plateaus have left of the schedule


def make_optimiser(
    config: ConfigDict, trainable: Iterable[str], plan: Plan, parity: bool = False
) -> tuple[optax.GradientTransformation, Callable]:
    """Returns the optimiser of the named parameters and its schedule, a function of step.

    The schedule does not know of plateaus; `learning_rate` does.
    Raises: UserError for an unknown name or a number out of range.
    """
    check(config)
    kind, trainable, rate = config.name, list(trainable), schedule(config, plan, parity)
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    if parity and kind == "adamw":
        if config.weight_decay > 0:
            decay = {n: PUBLISHED_DECAY for n in trainable if "bias" not in n}
            return optax.chain(*parts, published_adam(), by_rate(rate, decay_after=decay)), rate
        kind = "sgd"
    decayed = optax.add_decayed_weights(config.weight_decay, mask=decays(config, trainable, parity))
    if kind == "adamw":
        parts += [optax.scale_by_adam(), decayed]
    else:
        parts += [decayed, optax.trace(config.momentum) if kind == "sgd" else optax.scale_by_adam()]
    biases = [n for n in trainable if "bias" in n and n != HEAD_BIAS]
    return optax.chain(*parts, by_rate(rate, dict.fromkeys(biases, config.bias_multiplier))), rate


def decays(config: ConfigDict, trainable: Iterable[str], parity: bool) -> dict[str, bool]:
    """Returns which of the named parameters decay."""
    decay = dict.fromkeys(trainable, config.weight_decay > 0)
    if parity:
        exempt = {HEAD_BIAS} & decay.keys()
    elif config.no_decay and config.weight_decay > 0:
        exempt = names.matching(config.no_decay, decay, "optim.no_decay")
    else:
        exempt = set()
    return decay | dict.fromkeys(exempt, False)


def by_rate(
    rate: Callable,
    multipliers: Mapping[str, float] | None = None,
    decay_after: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
    """Multiplies directions by minus the learning rate, times a multiplier for some names.

    `decay_after` then takes that share, times the rate, off the parameters as they are after the
    step.
    """
    multipliers, decay_after = multipliers or {}, decay_after or {}

    def init(params):
        return RateState(jnp.zeros((), jnp.int32), jnp.ones((), jnp.float32))

    def update(updates, state, params=None):
        lr = state.scale * rate(state.count)
        steps = {n: -lr * multipliers.get(n, 1) * u for n, u in updates.items()}
        for name, share in decay_after.items():
            steps[name] -= lr * share * (params[name] + steps[name])
        return steps, RateState(state.count + 1, state.scale)

    return optax.GradientTransformation(init, update)


def published_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6) -> Any:
    """Adam's direction as the published AdamW has it: eps is added before the bias correction."""

    def init(params):
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), mu, nu)

    def update(updates, state, params=None):
        t = state.count + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        left1, left2 = (-jnp.expm1(t * math.log(b)) for b in (b1, b2))  # 1 - b^t
        correction = jnp.sqrt(left2) / left1
        step = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), mu, nu)
        return step, optax.ScaleByAdamState(t, mu, nu)

    return optax.GradientTransformation(init, update)


def schedule(config: ConfigDict, plan: Plan, parity: bool) -> Callable:
    """Returns step -> learning rate."""
    peak = config.lr * (plan.batch_size / config.lr_per if config.lr_per else 1)
    low = config.min_lr
    if low > peak:
        raise UserError(f"optim.min_lr is {low}, above the peak learning rate of {peak:g}")
    per_epoch = plan.steps_per_epoch if parity else 1
    warmup = round(config.warmup_epochs * plan.steps_per_epoch) // per_epoch
    total = math.ceil(plan.steps / per_epoch)

    def rate(step):
        now = step // per_epoch
        # Off parity the first step already learns.
        rising = (now if parity else now + 1) / max(1, warmup)
        if config.warmup_from_zero and not parity:
            rising = now / max(1, warmup - 1)
        progress = (now - warmup) / max(1, total - warmup)
        falling = 1.0
        if config.schedule == "cosine":
            falling = 0.5 * (1 + jnp.cos(jnp.pi * progress))
        elif config.schedule == "cosine_hardrestart":
            falling = 0.5 * (1 + jnp.cos(jnp.pi * (config.cycles * progress % 1)))
            falling = jnp.where(progress < 1, falling, 0.0)
        return jnp.where(now < warmup, peak * rising, low + (peak - low) * falling)

    return rate


def learning_rate(rate: Callable, opt: Any, step: Any) -> Any:
    """Returns the learning rate of a step, plateaus included."""
    return opt[-1].scale * rate(step)


def reduce(opt: Any, factor: float) -> Any:
    """Returns an optimiser's state whose learning rate is `factor` times as high from now on."""
    return (*opt[:-1], opt[-1]._replace(scale=opt[-1].scale * factor))


def check(config: ConfigDict) -> None:
    """Raises a UserError if a choice cannot be meant."""
    if config.name not in OPTIMISERS:
        raise unknown("optim.name", config.name, OPTIMISERS)
    if config.schedule not in SCHEDULES:
        raise unknown("optim.schedule", config.schedule, SCHEDULES)
    positive = ("lr", "min_lr", "lr_per", "weight_decay", "warmup_epochs", "clip_norm")
    for key in (*positive, "bias_multiplier"):
        if not config[key] >= 0:
            raise UserError(f"optim.{key} is {config[key]}; it must be 0 or more")
    for key in ("cycles", "plateau_patience"):
        if config[key] < 1:
            raise UserError(f"optim.{key} is {config[key]}; it must be 1 or more")
    if not 0 <= config.momentum < 1:
        raise UserError(f"optim.momentum is {config.momentum}; it must be in [0, 1)")
    if not 0 < config.plateau_factor < 1:
        raise UserError(f"optim.plateau_factor is {config.plateau_factor}; it must be in (0, 1)")
