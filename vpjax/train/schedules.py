"""Learning-rate schedules: functions of the step, from the settings of `vpjax.train.optim`.

    cosine              linear warm-up, then half a cosine from the peak to `min_lr`
    cosine_timm         timm's by epochs: from `warmup_lr` (0: 1e-6) linearly to the peak, then a
                        half cosine that began with the run; every epoch has the rate that is due
                        one before it, so the first two are alike
    cosine_hardrestart  the same with `cycles` half cosines, one after the other
    step                linear warm-up, then multiplied by `step_factor` every `step_epochs`
    constant            linear warm-up, then the peak
    plateau             as constant; `vpjax.train.optim.reduce_lr` lowers it while training
    onecycle            from peak / 25 to the peak over 30 % of the steps and down to
                        peak / 250,000, by half cosines, without a further warm-up; momentum, or
                        Adam's beta1, goes 0.95 - 0.85 - 0.95 (Smith and Topin 2019,
                        arXiv 1708.07120, as torch implements it)

With `schedule_by_epoch` all steps of an epoch have the rate of its first. With `warmup_lr` the
warm-up does not rise, and with `cosine_over_run` the cosine is as long as the run, so that it ends
above its lowest rate: Dassl has both, which CoOp and its successors train by.
"""

import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from vpjax.core.errors import UserError

log = logging.getLogger(__name__)

SCHEDULES = (
    "cosine",
    "cosine_timm",
    "cosine_hardrestart",
    "step",
    "onecycle",
    "constant",
    "plateau",
)
# One cycle: share of the steps that rise, peak / start, start / end, momentum's ends and middle.
RISE, START, END, MOMENTA = 0.3, 25.0, 1e4, (0.95, 0.85)


class Plan(NamedTuple):
    """The length of a run.

    Attributes:
        steps: of the optimizer.
        steps_per_epoch: steps in which every training image is used once.
        batch_size: images of a step, over all devices.
    """

    steps: int
    steps_per_epoch: int
    batch_size: int


def peak_lr(settings: Any, plan: Plan) -> float:
    """Return the peak learning rate: lr x batch size / `lr_base_batch_size`, or `lr` if that is 0.

    Args:
        settings: a `vpjax.train.optim.Settings`.
        plan: the length of the run.

    Raises:
        UserError: if `min_lr` is above it.
    """
    base = settings.lr_base_batch_size
    peak = settings.lr * (plan.batch_size / base if base else 1)
    if settings.min_lr > peak:
        raise UserError(
            f"optim.min_lr is {settings.min_lr}, above the peak learning rate of {peak:g} "
            "(optim.lr, scaled to the batch size). Lower one, or raise the other."
        )
    return peak


def make_schedule(settings: Any, plan: Plan) -> Callable:
    """Return the schedule, step -> learning rate.

    Args:
        settings: a `vpjax.train.optim.Settings`.
        plan: the length of the run.

    Raises:
        UserError: if `min_lr` is above the peak.
    """
    peak = peak_lr(settings, plan)
    if settings.schedule == "onecycle":
        share, _ = one_cycle(plan.steps)
        return lambda step: peak * share(step)
    if settings.schedule == "cosine_timm":
        return _timm(settings, plan, peak)
    unit = plan.steps_per_epoch if settings.schedule_by_epoch else 1  # steps of equal rate
    warmup = round(settings.warmup_epochs * plan.steps_per_epoch) // unit
    if settings.warmup_steps is not None:
        warmup = settings.warmup_steps
    total = math.ceil(plan.steps / unit)
    warn_of_warmup(warmup * unit, plan.steps, peak)
    rising = _warmup(settings, peak, warmup)
    length = total if settings.cosine_over_run else total - warmup
    falling = _decay(settings, plan, peak, unit, warmup, max(1, length))
    joined = optax.join_schedules([rising, falling], [warmup])
    return lambda step: joined(step // unit)


def _timm(settings: Any, plan: Plan, peak: float) -> Callable:
    """Return the schedule of timm 0.4.12 that FacT, Convpass and RepAdapter train by."""
    low, first, warmup = settings.min_lr, settings.warmup_lr or 1e-6, settings.warmup_epochs
    epochs = plan.steps / plan.steps_per_epoch
    warn_of_warmup(round(warmup * plan.steps_per_epoch), plan.steps, peak)

    def rate(step):
        due = jnp.maximum(step // plan.steps_per_epoch - 1, 0)
        rising = first + due * (peak - first) / max(warmup, 1e-9)
        falling = low + (peak - low) * 0.5 * (1 + jnp.cos(jnp.pi * due / epochs))
        return jnp.where(due < warmup, rising, falling)

    return rate


def warn_of_warmup(warmup: int, steps: int, peak: float) -> None:
    """Log a warning if the warm-up is as long as the run.

    Args:
        warmup: steps of the warm-up.
        steps: of the run.
        peak: learning rate at the end of the warm-up.
    """
    if steps and warmup >= steps:
        log.warning(
            "the warm-up of %d steps is as long as the run, %d: the learning rate never reaches "
            "its peak of %.3g. Shorten the warm-up, or train longer.",
            warmup,
            steps,
            peak,
        )


def _warmup(settings: Any, peak: float, warmup: int) -> Callable:
    """Return the rate of the first `warmup` units of the run."""
    if settings.warmup_lr:
        return optax.constant_schedule(settings.warmup_lr)
    if settings.warmup_steps is not None:  # step 0 has rate 0, step `warmup` the peak
        return lambda now: peak * (now / max(1, warmup))
    if settings.warmup_from_zero:  # the first has rate 0, the last the peak
        return lambda now: peak * (now / max(1, warmup - 1))
    return lambda now: peak * ((now + 1) / max(1, warmup))  # the first step already learns


def _decay(settings: Any, plan: Plan, peak: float, unit: int, warmup: int, length: int) -> Callable:
    """Return the rate of the units after the warm-up, counted from its end."""
    low = settings.min_lr
    if settings.schedule == "cosine":
        return optax.cosine_decay_schedule(peak, length, low / peak if peak else 0.0)
    if settings.schedule == "cosine_hardrestart":

        def restarting(now):
            progress = now / length
            falling = 0.5 * (1 + jnp.cos(jnp.pi * (settings.cycles * progress % 1)))
            return low + (peak - low) * jnp.where(progress < 1, falling, 0.0)

        return restarting
    if settings.schedule == "step":

        def in_steps(now):
            epoch = (now + warmup) * unit / plan.steps_per_epoch  # of the run
            falls = jnp.floor(epoch / settings.step_epochs)
            return low + (peak - low) * settings.step_factor**falls

        return in_steps
    return optax.constant_schedule(peak)


def one_cycle(steps: int) -> tuple[Callable, Callable]:
    """Return two functions of the step: share of the peak learning rate, and momentum.

    Smith and Topin 2019, arXiv 1708.07120, as torch implements it; `steps` is the run's length.
    """
    turn = RISE * steps - 1

    def between(first, last, progress):
        return last + (first - last) / 2 * (1 + jnp.cos(jnp.pi * progress))

    def at(step, outer, middle, end):
        rising = between(outer, middle, step / max(turn, 1))
        falling = between(middle, end, (step - turn) / max(steps - 1 - turn, 1))
        return jnp.where(step <= turn, rising, falling)

    outer, middle = MOMENTA
    return (
        lambda step: at(step, 1 / START, 1.0, 1 / START / END),
        lambda step: at(step, outer, middle, outer),
    )
