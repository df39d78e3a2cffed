"""Optimizers of the trainable parameters.

    sgd     g + weight_decay p  ->  momentum              ->  - lr      (L2 in the gradient)
    adam    g + weight_decay p  ->  Adam's direction      ->  - lr      (L2 in the gradient)
    adamw   g  ->  Adam's direction, + weight_decay p     ->  - lr      (decoupled)

The learning rate follows `vpjax.train.schedules`; what published code does otherwise is in
`vpjax.train.parity`.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vpjax.core import params
from vpjax.core.errors import UserError, unknown
from vpjax.train import parity
from vpjax.train.averaging import averaged
from vpjax.train.schedules import SCHEDULES, Plan, make_schedule, one_cycle

OPTIMIZERS = ("sgd", "adam", "adamw")
# Parts of a backbone that come before its layers.
BEFORE = r"patch_\w+|pos_embed|cls_token|dist_token|registers|pre_norm"
HEAD_BIAS = "method/head/bias"  # of the last layer


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of an optimizer and its schedule: the section `optim` of a config.

    Raises:
        UserError: for an unknown name or a number out of range.
    """

    name: str = "sgd"  # one of OPTIMIZERS
    lr: float = 0.25  # peak learning rate
    lr_base_batch_size: int = 256  # batch size that `lr` is for; it scales with it. 0: `lr` as is
    momentum: float = 0.9  # sgd
    eps: float = 1e-8  # adam, adamw: what is added to the root of the second moment
    weight_decay: float = 1e-4
    no_decay: str = HEAD_BIAS  # regular expression of names that do not decay; "": all decay
    bias_multiplier: float = 1.0  # of the rate of biases, except that of the head's last layer
    head_multiplier: float = 1.0  # of the rate of the head, which begins anew
    layer_decay: float = 1.0  # of the rate, from each layer of a backbone that trains to that below
    schedule: str = "cosine"  # one of SCHEDULES
    schedule_by_epoch: bool = False  # all steps of an epoch have the rate of its first
    warmup_epochs: float = 10.0  # of linear warm-up
    warmup_steps: int | None = None  # instead: step 0 has rate 0, this step the peak
    warmup_from_zero: bool = False  # the first step has rate 0, the last of the warm-up the peak
    warmup_lr: float = 0.0  # constant rate of the warm-up, which does not rise then; 0: it rises
    min_lr: float = 0.0  # at the end of a cosine
    cosine_over_run: bool = False  # cosine: as long as the run, not as what the warm-up leaves
    cycles: int = 1  # cosine_hardrestart: half cosines one after the other
    step_epochs: float = 30.0  # step: epochs between two reductions
    step_factor: float = 0.1  # step: what the rate is multiplied with
    plateau_factor: float = 0.1  # plateau: what the rate is multiplied with
    plateau_patience: int = 10  # plateau: evaluations without improvement before a reduction
    clip_norm: float = 0.0  # upper bound of the global gradient norm; 0: none
    # The epoch that counts most in an average over epochs, which the run ends with; 0: no average.
    average_mean: float = 0.0
    average_std: float = 1.0  # of these weights, in epochs; see `vpjax.train.averaging`

    def __post_init__(self):
        if self.name not in OPTIMIZERS:
            raise unknown("optim.name", self.name, OPTIMIZERS)
        if self.schedule not in SCHEDULES:
            raise unknown("optim.schedule", self.schedule, SCHEDULES)
        positive = ("lr", "min_lr", "lr_base_batch_size", "weight_decay", "warmup_epochs")
        positive += ("warmup_lr", "average_mean")
        for key in (*positive, "clip_norm", "bias_multiplier", "head_multiplier", "step_factor"):
            if not getattr(self, key) >= 0:
                raise UserError(f"optim.{key} is {getattr(self, key)}; it must be 0 or more")
        if not self.eps > 0:
            raise UserError(f"optim.eps is {self.eps}; it must be above 0")
        for key in ("cycles", "plateau_patience"):
            if getattr(self, key) < 1:
                raise UserError(f"optim.{key} is {getattr(self, key)}; it must be 1 or more")
        steps, by_epoch = self.warmup_steps, self.schedule_by_epoch
        if steps is not None and (steps < 0 or by_epoch):
            raise UserError(
                f"optim.warmup_steps is {steps} and optim.schedule_by_epoch {by_epoch}; expected "
                "0 or more, and False: a rate that is constant within an epoch cannot rise by step."
            )
        for key in ("step_epochs", "average_std"):
            if not getattr(self, key) > 0:
                raise UserError(f"optim.{key} is {getattr(self, key)}; it must be above 0")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"optim.layer_decay is {self.layer_decay}; it must be in (0, 1]")
        if not 0 <= self.momentum < 1:
            raise UserError(f"optim.momentum is {self.momentum}; it must be in [0, 1)")
        if not 0 < self.plateau_factor < 1:
            raise UserError(f"optim.plateau_factor is {self.plateau_factor}; it must be in (0, 1)")


class RateState(NamedTuple):
    """The state of the learning rate, the last part of every optimizer's state.

    Attributes:
        count: int32, steps done.
        scale: float32, the product of all reductions on plateaus.
    """

    count: Any
    scale: Any


def make_optimizer(
    settings: Settings, names: Iterable[str], plan: Plan, match_reference_code: bool = False
) -> tuple[optax.GradientTransformation, Callable]:
    """Return an optimizer and its schedule, a jitted function step -> learning rate.

    The schedule does not include reductions on plateaus; `learning_rate` does.

    Args:
        settings: of the optimizer and the schedule.
        names: of the trainable parameters.
        plan: the length of the run.
        match_reference_code: whether to repeat published code, see `vpjax.train.parity`.

    Raises:
        UserError: if `no_decay` matches nothing, `min_lr` is above the peak, or a part of the model
            that has a rate of its own does not train.
    """
    kind, names = settings.name, list(names)
    multipliers = rate_multipliers(settings, names)
    make = parity.reference_schedule if match_reference_code else make_schedule
    rate = make(settings, plan)
    cycle = settings.schedule == "onecycle"  # not in the code that `reference` stands for
    reference = match_reference_code and not cycle
    average = lambda parts: optax.chain(*parts)  # noqa: E731
    if settings.average_mean:
        span = settings.average_mean, settings.average_std
        average = lambda parts: averaged(optax.chain(*parts), plan, *span)  # noqa: E731
    parts = [optax.clip_by_global_norm(settings.clip_norm)] if settings.clip_norm else []
    if reference and kind == "adamw":
        if settings.weight_decay > 0:
            if settings.head_multiplier != 1 or settings.layer_decay != 1:
                raise UserError(
                    "the published code's adamw has one rate for all parameters: set "
                    "optim.head_multiplier=1 and optim.layer_decay=1, or match_reference_code=False"
                )
            decay = parity.reference_decay(names)
            parts += [parity.reference_adam(), scale_by_rate(rate, decay_after=decay)]
            return average(parts), jax.jit(rate)
        kind = "sgd"
    momentum = None
    if cycle:
        momentum = parity.constant_momentum if match_reference_code else one_cycle(plan.steps)[1]
    mask = decay_mask(settings, names, reference)
    decayed = optax.add_decayed_weights(settings.weight_decay, mask=mask)
    step = _direction(kind, settings, momentum)
    parts += [step, decayed] if kind == "adamw" else [decayed, step]
    parts.append(scale_by_rate(rate, multipliers))
    return average(parts), jax.jit(rate)  # one program where a run reads the rate


def rate_multipliers(settings: Settings, names: Sequence[str]) -> dict[str, float]:
    """Return what the rate of each parameter is multiplied with; others have 1.

    `layer_decay` is that of BEiT (Bao et al. 2022): what comes before the layers counts as one more
    below them, what comes after as one more above, with the rate as it is.

    Args:
        settings: of the optimizer.
        names: of the trainable parameters.

    Raises:
        UserError: if the head, or the backbone, has a factor and does not train.
    """
    out = {n: settings.bias_multiplier for n in names if "bias" in n and n != HEAD_BIAS}
    scaled: dict[str, dict[str, float]] = {}
    if settings.head_multiplier != 1:
        head = [n for n in names if n.startswith("method/head/")]
        scaled["head_multiplier"] = dict.fromkeys(head, settings.head_multiplier)
    if settings.layer_decay != 1:
        backbone = [n for n in names if n.startswith("backbone/")]
        heights = {n: _height(n) for n in backbone}
        top = max((h for h in heights.values() if h is not None), default=0) + 1
        above = {n: 0 if h is None else top - h for n, h in heights.items()}
        scaled["layer_decay"] = {n: settings.layer_decay**k for n, k in above.items()}
    for key, factors in scaled.items():
        if not factors:
            part = "head" if key == "head_multiplier" else "backbone"
            raise UserError(
                f"optim.{key} is {getattr(settings, key)}, and no parameter of the {part} trains. "
                "Set it to 1."
            )
        for name, factor in factors.items():
            out[name] = out.get(name, 1.0) * factor
    return out


def _height(name: str) -> int | None:
    """Return 1 + the layer of a backbone's parameter; 0 before the layers, None after them."""
    if found := re.match(r"backbone/layers/(\d+)/", name):
        return 1 + int(found[1])
    return 0 if re.match(rf"backbone/({BEFORE})(/|$)", name) else None


def decay_mask(
    settings: Settings, names: Iterable[str], match_reference_code: bool = False
) -> dict[str, bool]:
    """Return {name: whether the parameter decays}, for parameters that train.

    Args:
        settings: of the optimizer.
        names: of the parameters.
        match_reference_code: whether all decay but the head's last bias, as in VPT's code.

    Raises:
        UserError: if `settings.no_decay` matches none of them.
    """
    mask = dict.fromkeys(names, settings.weight_decay > 0)
    if match_reference_code:
        exempt = {HEAD_BIAS} & mask.keys()
    elif settings.no_decay and settings.weight_decay > 0 and mask:
        exempt = params.matching(settings.no_decay, mask, "optim.no_decay")
    else:
        exempt = set()
    return mask | dict.fromkeys(exempt, False)


def scale_by_rate(
    rate: Callable,
    multipliers: Mapping[str, float] | None = None,
    decay_after: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
    """Return a transformation that multiplies update directions by minus the learning rate.

    Args:
        rate: step -> learning rate.
        multipliers: of the rate, by name of the parameter; others have 1.
        decay_after: {name: share}; after the step, parameters lose this share times the rate.
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


def learning_rate(rate: Callable, opt_state: Any, step: int) -> float:
    """Return the learning rate of a step, reductions on plateaus included.

    Args:
        rate: step -> learning rate, from `make_optimizer`.
        opt_state: of the optimizer; the call waits until the device has computed it.
        step: steps done.
    """
    scale = jax.device_get(opt_state[-1].scale)
    return float(scale * jax.device_get(rate(jax.device_put(step))))


def reduce_lr(opt_state: Any, factor: float) -> Any:
    """Return an optimizer's state whose learning rate is multiplied by `factor` from now on."""
    return (*opt_state[:-1], opt_state[-1]._replace(scale=opt_state[-1].scale * factor))


def _direction(kind: str, settings: Settings, momentum: Callable | None) -> Any:
    """Return SGD with momentum, or Adam; `momentum` (step -> number) replaces a fixed one."""
    if kind == "sgd":
        if momentum is None:
            return optax.trace(settings.momentum)
        return optax.inject_hyperparams(optax.trace)(decay=momentum)
    eps = settings.eps
    if momentum is None:
        return optax.scale_by_adam(eps=eps)
    return optax.inject_hyperparams(optax.scale_by_adam, ("b2", "eps", "eps_root"))(
        b1=momentum, eps=eps
    )
