"""Optimisers and learning-rate schedules, of the trainable part only.

    sgd     g + weight_decay p  ->  momentum              ->  - lr      (L2 in the gradient)
    adam    g + weight_decay p  ->  Adam's direction      ->  - lr      (L2 in the gradient)
    adamw   g  ->  Adam's direction, + weight_decay p     ->  - lr      (decoupled)

    lr      rises linearly over the warm-up, then follows half a cosine, several, falls in steps,
            or stays; "plateau" stays too, until `reduce` lowers it because validation no longer
            improves. `per_epoch` holds it within an epoch

    onecycle  lr rises from peak / 25 over 30 % of the steps and falls to peak / 250,000, by half
            cosines, without a further warm-up; momentum, or Adam's beta1, goes 0.95 - 0.85 - 0.95
            (Smith and Topin 2019, arXiv 1708.07120, as torch has it)

`match_reference_code` repeats the published VPT code (arXiv 2203.12119):

    sgd, adam  everything decays but the head's last bias
    adamw      decays by 0.01 whatever `weight_decay` says, after the step, all but names with
               "bias" in them, and knows no bias_multiplier; without weight decay it is sgd
    lr         constant within an epoch, so that the first epoch of a warm-up runs at 0

and with "onecycle", which that code has not, MS-VP's, whose cycle never turns: lr peak / 25 and
momentum 0.95 throughout.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vpjax.core import params
from vpjax.core.errors import UserError, unknown

log = logging.getLogger(__name__)

OPTIMISERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "cosine_hardrestart", "step", "onecycle", "constant", "plateau")
HEAD_BIAS = "method/head/bias"  # of the last layer
PUBLISHED_DECAY = 0.01
# Plain numbers of the update, which runs that are trained at once may differ in.
NUMBERS = ("lr", "min_lr", "weight_decay", "momentum", "bias_multiplier", "clip_norm")
# One cycle: share of the steps that rise, peak / start, start / end, momentum's ends and middle.
RISE, START, END, MOMENTA = 0.3, 25.0, 1e4, (0.95, 0.85)


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
    config: ConfigDict,
    trainable: Iterable[str],
    plan: Plan,
    match_reference_code: bool = False,
    traced: Mapping[str, Any] | None = None,
) -> tuple[optax.GradientTransformation, Callable]:
    """Returns the optimiser of the named parameters and its schedule, a function of step.

    The schedule does not know of plateaus; `learning_rate` does. `traced` has scalar arrays for
    some of `NUMBERS`: they are what is computed with, while the config still decides what the
    optimiser consists of, such as whether anything decays.
    Raises: UserError for an unknown name or a number out of range.
    """
    check(config)
    number = SimpleNamespace(**{k: config[k] for k in NUMBERS} | dict(traced or {}))
    kind, trainable, rate = (
        config.name,
        list(trainable),
        schedule(config, plan, match_reference_code, number),
    )
    cycle = config.schedule == "onecycle"
    momentum = one_cycle(plan.steps, still=match_reference_code)[1] if cycle else None
    match_reference_code = match_reference_code and not cycle
    parts = [optax.clip_by_global_norm(number.clip_norm)] if config.clip_norm else []
    if match_reference_code and kind == "adamw":
        if config.weight_decay > 0:
            decay = {n: PUBLISHED_DECAY for n in trainable if "bias" not in n}
            made = optax.chain(*parts, published_adam(), by_rate(rate, decay_after=decay))
            return made, jax.jit(rate)
        kind = "sgd"
    decayed = optax.add_decayed_weights(
        number.weight_decay, mask=decays(config, trainable, match_reference_code)
    )
    step = direction(kind, number.momentum, momentum)
    parts += [step, decayed] if kind == "adamw" else [decayed, step]
    biases = [n for n in trainable if "bias" in n and n != HEAD_BIAS]
    parts.append(by_rate(rate, dict.fromkeys(biases, number.bias_multiplier)))
    return optax.chain(*parts), jax.jit(rate)  # one program where a run reads the rate


def direction(kind: str, fixed: Any, momentum: Callable | None) -> Any:
    """Momentum or Adam; `momentum`, step -> number, takes the place of the `fixed` one."""
    if kind == "sgd":
        cycled, fixed = optax.inject_hyperparams(optax.trace), optax.trace(fixed)
        return cycled(decay=momentum) if momentum else fixed
    cycled = optax.inject_hyperparams(optax.scale_by_adam, ("b2", "eps", "eps_root"))
    return cycled(b1=momentum) if momentum else optax.scale_by_adam()


def decays(
    config: ConfigDict, trainable: Iterable[str], match_reference_code: bool
) -> dict[str, bool]:
    """Returns which of the named parameters decay."""
    decay = dict.fromkeys(trainable, config.weight_decay > 0)
    if match_reference_code:
        exempt = {HEAD_BIAS} & decay.keys()
    elif config.no_decay and config.weight_decay > 0:
        exempt = params.matching(config.no_decay, decay, "optim.no_decay")
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


def schedule(
    config: ConfigDict, plan: Plan, match_reference_code: bool, number: Any = None
) -> Callable:
    """Returns step -> learning rate; `number` has `lr` and `min_lr` where the config's are not."""
    number, scale = (
        number or config,
        plan.batch_size / config.lr_base_batch_size if config.lr_base_batch_size else 1,
    )
    if config.min_lr > config.lr * scale:
        raise UserError(
            f"optim.min_lr is {config.min_lr}, above the peak learning rate of "
            f"{config.lr * scale:g}"
        )
    peak, low = number.lr * scale, number.min_lr
    if config.schedule == "onecycle":
        share, _ = one_cycle(plan.steps, still=match_reference_code)
        return lambda step: peak * share(step)
    per_epoch = plan.steps_per_epoch if match_reference_code or config.schedule_by_epoch else 1
    warmup = round(config.warmup_epochs * plan.steps_per_epoch) // per_epoch
    if in_steps := config.warmup_steps is not None:
        per_epoch, warmup = 1, config.warmup_steps
    total = math.ceil(plan.steps / per_epoch)
    if warmup >= total:
        log.warning(
            "the warm-up of %d steps is as long as the run, %d: the learning rate never gets to "
            "its peak of %.3g. Shorten the warm-up, or train longer.",
            warmup * per_epoch,
            plan.steps,
            config.lr * scale,
        )

    def rate(step):
        now = step // per_epoch
        # Otherwise the first step already learns.
        rising = (now if match_reference_code else now + 1) / max(1, warmup)
        if config.warmup_from_zero and not match_reference_code:
            rising = now / max(1, warmup - 1)
        if in_steps:
            rising = now / max(1, warmup)
        progress = (now - warmup) / max(1, total - warmup)
        falling = 1.0
        if config.schedule == "cosine":
            falling = 0.5 * (1 + jnp.cos(jnp.pi * progress))
        elif config.schedule == "cosine_hardrestart":
            falling = 0.5 * (1 + jnp.cos(jnp.pi * (config.cycles * progress % 1)))
            falling = jnp.where(progress < 1, falling, 0.0)
        elif config.schedule == "step":
            epoch = (step // per_epoch) * per_epoch / plan.steps_per_epoch
            falling = config.step_factor ** jnp.floor(epoch / config.step_epochs)
        return jnp.where(now < warmup, peak * rising, low + (peak - low) * falling)

    return rate


def one_cycle(steps: int, still: bool = False) -> tuple[Callable, Callable]:
    """Returns step -> share of the peak rate, and step -> momentum.

    `still` keeps both as they are at the first step.
    """
    turn = RISE * steps - 1

    def between(first, last, progress):
        return last + (first - last) / 2 * (1 + jnp.cos(jnp.pi * progress))

    def at(step, outer, middle, end):
        step = 0 * step if still else step
        rising = between(outer, middle, step / max(turn, 1))
        falling = between(middle, end, (step - turn) / max(steps - 1 - turn, 1))
        return jnp.where(step <= turn, rising, falling)

    outer, middle = MOMENTA
    return (
        lambda step: at(step, 1 / START, 1.0, 1 / START / END),
        lambda step: at(step, outer, middle, outer),
    )


def learning_rate(rate: Callable, opt: Any, step: int) -> float:
    """Returns the learning rate of a step, plateaus included. Waits for the state."""
    return float(jax.device_get(opt[-1].scale) * jax.device_get(rate(jax.device_put(step))))


def reduce(opt: Any, factor: float) -> Any:
    """Returns an optimiser's state whose learning rate is `factor` times as high from now on."""
    return (*opt[:-1], opt[-1]._replace(scale=opt[-1].scale * factor))


def check(config: ConfigDict) -> None:
    """Raises a UserError if a choice cannot be meant."""
    if config.name not in OPTIMISERS:
        raise unknown("optim.name", config.name, OPTIMISERS)
    if config.schedule not in SCHEDULES:
        raise unknown("optim.schedule", config.schedule, SCHEDULES)
    positive = ("lr", "min_lr", "lr_base_batch_size", "weight_decay", "warmup_epochs", "clip_norm")
    for key in (*positive, "bias_multiplier", "step_factor"):
        if not config[key] >= 0:
            raise UserError(f"optim.{key} is {config[key]}; it must be 0 or more")
    for key in ("cycles", "plateau_patience"):
        if config[key] < 1:
            raise UserError(f"optim.{key} is {config[key]}; it must be 1 or more")
    if config.warmup_steps is not None and (config.warmup_steps < 0 or config.schedule_by_epoch):
        raise UserError(
            f"optim.warmup_steps is {config.warmup_steps} and optim.schedule_by_epoch {config.schedule_by_epoch}; "
            "expected 0 or more, and False: a rate that stays within an epoch cannot rise in steps."
        )
    if not config.step_epochs > 0:
        raise UserError(f"optim.step_epochs is {config.step_epochs}; it must be above 0")
    if not 0 <= config.momentum < 1:
        raise UserError(f"optim.momentum is {config.momentum}; it must be in [0, 1)")
    if not 0 < config.plateau_factor < 1:
        raise UserError(f"optim.plateau_factor is {config.plateau_factor}; it must be in (0, 1)")
