"""Optimizers and schedules as published code has them, for `match_reference_code`.

VPT's code (arXiv 2203.12119):

    sgd, adam  everything decays but the head's last bias
    adamw      decays by 0.01 whatever `weight_decay` says, after the step, all parameters without
               "bias" in their name, and ignores bias_multiplier; without weight decay it is sgd
    lr         constant within an epoch, so that the first epoch of a warm-up trains at 0

MS-VP's code, which has "onecycle": its cycle never turns, so the rate stays at peak / 25 and
momentum at 0.95.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vpjax.core.errors import UserError
from vpjax.train.schedules import MOMENTA, START, Plan, peak_lr, warn_of_warmup

DECAY = 0.01  # of AdamW


def reference_schedule(settings: Any, plan: Plan) -> Callable:
    """Return step -> learning rate as the published code has it.

    Args:
        settings: a `vpjax.train.optim.Settings`.
        plan: the length of the run.

    Raises:
        UserError: if `min_lr` is above the peak.
    """
    peak, low = peak_lr(settings, plan), settings.min_lr
    if settings.schedule == "onecycle":
        return lambda step: peak * (1 / START) + 0 * step
    timm = settings.schedule == "cosine_timm"
    if settings.warmup_lr or settings.cosine_over_run or timm:
        raise UserError(
            "optim.warmup_lr, cosine_over_run and schedule='cosine_timm' are not in the published "
            "code that match_reference_code repeats. Set match_reference_code=False."
        )
    unit = 1 if settings.warmup_steps is not None else plan.steps_per_epoch
    warmup = round(settings.warmup_epochs * plan.steps_per_epoch) // unit
    if settings.warmup_steps is not None:
        warmup = settings.warmup_steps
    total = math.ceil(plan.steps / unit)
    warn_of_warmup(warmup * unit, plan.steps, peak)

    def rate(step):
        now = step // unit
        progress = (now - warmup) / max(1, total - warmup)
        falling = 1.0
        if settings.schedule == "cosine":
            falling = 0.5 * (1 + jnp.cos(jnp.pi * progress))
        elif settings.schedule == "cosine_hardrestart":
            falling = 0.5 * (1 + jnp.cos(jnp.pi * (settings.cycles * progress % 1)))
            falling = jnp.where(progress < 1, falling, 0.0)
        elif settings.schedule == "step":
            epoch = now * unit / plan.steps_per_epoch
            falling = settings.step_factor ** jnp.floor(epoch / settings.step_epochs)
        rising = peak * now / max(1, warmup)
        return jnp.where(now < warmup, rising, low + (peak - low) * falling)

    return rate


def constant_momentum(step: jax.Array) -> jax.Array:
    """Return the momentum of the published one-cycle schedule, which stays at its start."""
    return MOMENTA[0] + 0 * step


def reference_decay(names: Iterable[str]) -> dict[str, float]:
    """Return the weight decay of each parameter that decays under the published AdamW."""
    return {n: DECAY for n in names if "bias" not in n}


def reference_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6) -> Any:
    """Return Adam with eps added before the bias correction, as the published code has it."""

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
