"""The average over epochs: its weights, where a run ends, a run that goes on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpjax.core.errors import UserError
from vpjax.runs import defaults, experiment
from vpjax.train.averaging import AverageState, epoch_weights
from vpjax.train.optim import Settings, learning_rate, make_optimizer
from vpjax.train.schedules import Plan, make_schedule

USUAL = {"lr": 0.1, "lr_base_batch_size": 0, "no_decay": "", "warmup_epochs": 0.0}


def walk(optimizer, steps, values, state=None, first=0):
    """Values after each step, for gradients that depend on the step."""
    state, found = state or optimizer.init(values), []
    for i in range(first, steps):
        gradient = jax.tree.map(lambda v, i=i: jnp.sin(v + i), values)
        updates, state = optimizer.update(gradient, state, values)
        values = jax.tree.map(jnp.add, values, updates)
        found.append(np.asarray(values["a"]))
    return found, values, state


@pytest.mark.parametrize(("steps", "ends"), [(6, (2, 4, 6)), (7, (2, 4, 6, 7))])
def test_a_run_ends_with_the_average(steps, ends):
    values, plan = {"a": jnp.array([0.3, -1.0])}, Plan(steps, 2, 1)
    plain, _ = make_optimizer(Settings(**USUAL), values, plan)
    ours, _ = make_optimizer(Settings(**USUAL, average_mean=2.0, average_std=0.7), values, plan)
    before, after = walk(plain, steps, values)[0], walk(ours, steps, values)[0]
    np.testing.assert_array_equal(after[:-1], before[:-1])  # until the end nothing differs
    weights = np.exp(-0.5 * ((np.arange(1, len(ends) + 1) - 2) / 0.7) ** 2)
    expected = np.average([before[end - 1] for end in ends], axis=0, weights=weights)
    np.testing.assert_allclose(after[-1], expected, rtol=1e-6)
    assert np.abs(after[-1] - before[-1]).max() > 1e-3


def test_a_run_that_was_interrupted_ends_the_same():
    values, plan = {"a": jnp.array([0.3, -1.0])}, Plan(6, 2, 1)
    ours, rate = make_optimizer(Settings(**USUAL, average_mean=2.0), values, plan)
    whole = walk(ours, 6, values)[0]
    _, middle, state = walk(ours, 3, values)
    assert isinstance(state[0], AverageState) and learning_rate(rate, state, 2) > 0
    kept = jax.tree.map(np.asarray, state)  # as a checkpoint keeps it
    np.testing.assert_array_equal(walk(ours, 6, middle, kept, first=3)[0][-1], whole[-1])


def test_weights_far_from_the_mean():
    weights = epoch_weights(3, 100.0, 1.0)
    np.testing.assert_allclose(weights, [0, 0, 1], atol=1e-6)
    assert epoch_weights(20, 15.0, 1.0)[17:].sum() < 0.005


def test_what_would_leave_the_average_out_is_refused():
    config = defaults.get_config()
    config.optim.average_mean = 3.0
    for key, value in (("select", "best"), ("patience", 2)):
        config.train[key] = value
        with pytest.raises(UserError, match="would leave out"):
            experiment.check(config)
        config.train.update(select="last", patience=0)
    with pytest.raises(UserError, match="average_std is 0"):
        Settings(average_std=0.0)


def test_the_schedule_of_dassl():
    settings = Settings(
        lr=0.2,
        lr_base_batch_size=0,
        schedule_by_epoch=True,
        warmup_epochs=1.0,
        warmup_lr=1e-5,
        cosine_over_run=True,
    )
    rate = make_schedule(settings, Plan(10, 2, 4))
    cosine = [0.1 * (1 + np.cos(np.pi * e / 5)) for e in range(4)]
    np.testing.assert_allclose(rate(np.arange(10)), np.repeat([1e-5, *cosine], 2), rtol=1e-6)
    with pytest.raises(UserError, match="not in the published code"):
        make_optimizer(settings, ["a"], Plan(10, 2, 4), match_reference_code=True)
