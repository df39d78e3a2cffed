"""A Gaussian average of the trained parameters over epochs: PromptSRC's aggregation, GPA.

    w_e  =  exp(-((e - mean) / std)^2 / 2), divided by their sum      e = 1 .. E
    the model after the last step  =  sum of w_e (parameters after epoch e)

Training itself goes on as without it, up to the last step, whose update leads to the average. So
the average is what a run reports and keeps, and as a part of the optimizer's state it survives an
interruption. Khattak et al. 2023, arXiv 2307.06948.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from vpjax.train.schedules import Plan


class AverageState(NamedTuple):
    """The state of an average.

    Attributes:
        count: int32, steps done.
        total: weighted sum of the parameters so far, by name.
    """

    count: Any
    total: Any


def epoch_weights(epochs: int, mean: float, std: float) -> Float[np.ndarray, " E"]:
    """Return the weight of each epoch; they sum to 1.

    Args:
        epochs: E.
        mean: the epoch with the largest weight, counted from 1.
        std: epochs until a weight has fallen to 0.61 of that.
    """
    exponents = -0.5 * ((np.arange(1, epochs + 1) - mean) / std) ** 2
    weights = np.exp(exponents - exponents.max())  # else all may be 0 far from the mean
    return weights / weights.sum()


def averaged(
    inner: optax.GradientTransformation, plan: Plan, mean: float, std: float
) -> optax.GradientTransformation:
    """Return an optimizer that ends at the average of what another one reaches after each epoch.

    Args:
        inner: the other one; its state is a tuple, which follows the average in the new state.
        plan: the length of the run; a last epoch that is not whole counts as one.
        mean: see `epoch_weights`.
        std: likewise.
    """
    each, steps = plan.steps_per_epoch, plan.steps
    table = epoch_weights(math.ceil(steps / each), mean, std).astype(np.float32)

    def init(params):
        total = jax.tree.map(jnp.zeros_like, params)
        return AverageState(jnp.zeros((), jnp.int32), total), *inner.init(params)

    def update(updates, state, params=None):
        before, *rest = state
        updates, rest = inner.update(updates, tuple(rest), params)
        done = before.count + 1
        ends = (done % each == 0) | (done == steps)
        weight = jnp.where(ends, jnp.asarray(table)[(done - 1) // each], 0.0)
        after = optax.apply_updates(params, updates)
        total = jax.tree.map(lambda t, p: t + weight * p, before.total, after)
        lead = lambda u, t, p: jnp.where(done == steps, t - p, u)  # noqa: E731
        updates = jax.tree.map(lead, updates, total, params)
        return updates, (AverageState(done, total), *rest)

    return optax.GradientTransformation(init, update)
