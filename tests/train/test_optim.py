"""Learning rates and updates."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import base
from vpjax.train.optim import Plan, make_optimiser, schedule


def optim(**changes):
    config = base.get_config().optim
    config.update(lr_per=0, **changes)
    return config


@settings(deadline=None, max_examples=30)
@given(epochs=st.integers(1, 30), per_epoch=st.integers(1, 20), warmup=st.integers(0, 10))
def test_the_rate_rises_to_its_peak_and_falls_to_zero(epochs, per_epoch, warmup):
    plan = Plan(epochs * per_epoch, per_epoch, 32)
    rates = np.asarray(
        schedule(optim(lr=2.0, warmup_epochs=float(warmup)), plan, False)(np.arange(plan.steps))
    )
    rise = min(warmup * per_epoch, plan.steps)
    assert np.all(np.diff(rates[:rise]) > 0)
    assert np.all(np.diff(rates[rise:]) <= 1e-6)
    assert np.all((rates > 0) & (rates <= 2.0 + 1e-6))
    if rise < plan.steps:
        assert rates[rise] == pytest.approx(2.0)


def test_parity_holds_the_rate_within_an_epoch_and_begins_at_zero():
    plan = Plan(600, 6, 32)
    config = optim(lr=1.0, warmup_epochs=10.0)
    rates = np.asarray(schedule(config, plan, True)(np.arange(600)))
    assert np.all(rates[:6] == 0)
    by_epoch = rates.reshape(100, 6)
    assert np.all(by_epoch == by_epoch[:, :1])
    assert by_epoch[99, 0] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)), rel=1e-4)
    assert by_epoch[5, 0] == pytest.approx(0.5)


def test_the_rate_scales_with_the_batch():
    config = optim(lr=1.0, warmup_epochs=0.0, schedule="constant")
    config.lr_per = 256
    assert schedule(config, Plan(10, 1, 64), False)(0) == pytest.approx(0.25)


def test_what_does_not_decay_stays_where_it_is():
    params = {"method/head/bias": jnp.ones(2), "method/head/kernel": jnp.ones(2)}
    for name in ("sgd", "adamw"):
        config = optim(name=name, lr=0.1, weight_decay=0.5, warmup_epochs=0.0)
        optimiser, _ = make_optimiser(config, params, Plan(10, 1, 1))
        grads = {n: jnp.zeros(2) for n in params}
        updates, _ = optimiser.update(grads, optimiser.init(params), params)
        assert np.all(updates["method/head/bias"] == 0)
        np.testing.assert_allclose(updates["method/head/kernel"], -0.1 * 0.5, rtol=1e-6)


def test_gradients_are_clipped_by_their_global_norm():
    params = {"a": jnp.zeros(1), "method/head/bias": jnp.zeros(1)}
    config = optim(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, warmup_epochs=0.0)
    config.clip_norm = 1.0
    optimiser, _ = make_optimiser(config, params, Plan(10, 1, 1))
    grads = {"a": jnp.full(1, 3.0), "method/head/bias": jnp.full(1, 4.0)}
    updates, _ = optimiser.update(grads, optimiser.init(params), params)
    np.testing.assert_allclose(updates["a"], -0.6, rtol=1e-6)


def test_adamw_is_the_decoupled_one():
    params = {"a": jnp.linspace(0, 1, 5)}
    config = optim(name="adamw", lr=0.1, weight_decay=0.2, warmup_epochs=0.0, schedule="constant")
    config.no_decay = ""
    ours, _ = make_optimiser(config, params, Plan(10, 1, 1))
    theirs = optax.adamw(0.1, weight_decay=0.2)
    grads = {"a": jnp.linspace(-1, 1, 5)}
    a, b = ours.init(params), theirs.init(params)
    for _ in range(3):
        (u, a), (v, b) = ours.update(grads, a, params), theirs.update(grads, b, params)
        np.testing.assert_allclose(u["a"], v["a"], rtol=1e-5)
