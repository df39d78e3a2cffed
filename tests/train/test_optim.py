"""Learning rates and updates."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpjax.core.errors import UserError
from vpjax.runs import defaults
from vpjax.train import optim as optimizers
from vpjax.train import parity
from vpjax.train.optim import OPTIMIZERS, Settings, learning_rate, make_optimizer
from vpjax.train.schedules import Plan, make_schedule

NAMES = ("method/head/bias", "method/head/kernel", "backbone/norm/bias", "backbone/norm/scale")


def optim(**changes):
    return Settings(**{"lr_base_batch_size": 0} | changes)


def schedule(settings, plan, reference):
    return (parity.reference_schedule if reference else make_schedule)(settings, plan)


def test_settings_are_the_section_of_a_config():
    assert Settings(**defaults.get_config().optim) == Settings()


def test_each_layer_of_a_backbone_has_a_rate_of_its_own():
    names = ("backbone/cls_token", "backbone/layers/0/mlp/bias", "backbone/layers/11/mlp/kernel")
    names += ("backbone/pos_embed", "backbone/norm/scale", "method/head/kernel", "method/prompts/0")
    found = optimizers.rate_multipliers(optim(layer_decay=0.5, head_multiplier=10.0), names)
    expected = (0.5**13, 0.5**12, 0.5, 0.5**13, 1.0, 10.0)
    assert found == dict(zip(names, expected, strict=False))
    both = optimizers.rate_multipliers(optim(layer_decay=0.5, bias_multiplier=2.0), names)
    assert both["backbone/layers/0/mlp/bias"] == 2 * 0.5**12
    assert optimizers.rate_multipliers(optim(), names) == {"backbone/layers/0/mlp/bias": 1.0}


@pytest.mark.parametrize(
    ("changes", "names"),
    [({"head_multiplier": 2.0}, NAMES[2:]), ({"layer_decay": 0.7}, NAMES[:2])],
)
def test_a_rate_of_what_does_not_train(changes, names):
    plan = Plan(10, 5, 32)
    with pytest.raises(UserError, match=f"optim.{next(iter(changes))} is"):
        make_optimizer(optim(no_decay="", **changes), names, plan)
    with pytest.raises(UserError, match="one rate for all"):
        make_optimizer(optim(name="adamw", **changes), NAMES, plan, True)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_step_is_as_long_as_the_rate_of_its_parameter(kind):
    values = {n: jnp.ones(3) for n in NAMES}
    steps = {}
    for factor in (1.0, 4.0):
        settings_ = optim(name=kind, head_multiplier=factor, weight_decay=0.0, warmup_epochs=0.0)
        optimizer, _ = make_optimizer(settings_, NAMES, Plan(10, 5, 32))
        steps[factor] = optimizer.update(values, optimizer.init(values), values)[0]
    for name in NAMES:
        factor = 4.0 if "head" in name else 1.0
        np.testing.assert_allclose(steps[4.0][name], factor * steps[1.0][name], rtol=1e-6)


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
    config = optim(lr=1.0, warmup_epochs=0.0, schedule="constant", lr_base_batch_size=256)
    assert schedule(config, Plan(10, 1, 64), False)(0) == pytest.approx(0.25)


def test_what_does_not_decay_stays_where_it_is():
    params = {"method/head/bias": jnp.ones(2), "method/head/kernel": jnp.ones(2)}
    for name in OPTIMIZERS:
        config = optim(name=name, lr=0.1, weight_decay=0.5, warmup_epochs=0.0)
        optimiser, _ = make_optimizer(config, params, Plan(10, 1, 1))
        grads = {n: jnp.zeros(2) for n in params}
        updates, _ = optimiser.update(grads, optimiser.init(params), params)
        assert np.all(updates["method/head/bias"] == 0)
        # Adam's first step has the gradient's sign alone, and there L2 is part of the gradient.
        step = {"sgd": 0.1 * 0.5, "adam": 0.1, "adamw": 0.1 * 0.5}[name]
        np.testing.assert_allclose(updates["method/head/kernel"], -step, rtol=1e-5)


def test_gradients_are_clipped_by_their_global_norm():
    params = {"a": jnp.zeros(1), "method/head/bias": jnp.zeros(1)}
    config = optim(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, warmup_epochs=0.0)
    config = dataclasses.replace(config, clip_norm=1.0)
    optimiser, _ = make_optimizer(config, params, Plan(10, 1, 1))
    grads = {"a": jnp.full(1, 3.0), "method/head/bias": jnp.full(1, 4.0)}
    updates, _ = optimiser.update(grads, optimiser.init(params), params)
    np.testing.assert_allclose(updates["a"], -0.6, rtol=1e-6)


def test_adamw_is_the_decoupled_one():
    params = {"a": jnp.linspace(0, 1, 5)}
    config = optim(name="adamw", lr=0.1, weight_decay=0.2, warmup_epochs=0.0, schedule="constant")
    config = dataclasses.replace(config, no_decay="")
    ours, _ = make_optimizer(config, params, Plan(10, 1, 1))
    theirs = optax.adamw(0.1, weight_decay=0.2)
    grads = {"a": jnp.linspace(-1, 1, 5)}
    a, b = ours.init(params), theirs.init(params)
    for _ in range(3):
        (u, a), (v, b) = ours.update(grads, a, params), theirs.update(grads, b, params)
        np.testing.assert_allclose(u["a"], v["a"], rtol=1e-5)


def walk(steps=4, names=NAMES, match_reference_code=False, reduced=None, **changes):
    """Parameters after every step from fixed gradients; `reduced` lowers the rate after a step."""
    changes = {"lr": 0.1, "warmup_epochs": 0.0, "schedule": "constant"} | changes
    optimiser, _ = make_optimizer(optim(**changes), names, Plan(10, 1, 1), match_reference_code)
    params = {n: jnp.linspace(-1, 1, 3) + i for i, n in enumerate(names)}
    state, path = optimiser.init(params), [params]
    update = jax.jit(optimiser.update)
    for step in range(steps):
        grads = {n: jnp.cos(jnp.arange(3.0) + step + i) for i, n in enumerate(names)}
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
        if step == reduced:
            state = optimizers.reduce_lr(state, 0.5)
    return path


def same(one, other, rtol=1e-6):
    for a, b in zip(one, other, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=1e-7)


def differ(one, other):
    """The names whose last value differs."""
    return {n for n in one[-1] if np.abs(one[-1][n] - other[-1][n]).max() > 1e-6}


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_sgd_and_adam_are_those_of_torch(decay):
    torch = pytest.importorskip("torch")
    kinds = {
        "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
        "adam": lambda groups: torch.optim.Adam(groups, lr=0.1),
        "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.1),
    }
    for kind, make in kinds.items():
        path = walk(6, name=kind, weight_decay=decay, bias_multiplier=2.0)
        values = {n: torch.tensor(np.asarray(v)) for n, v in path[0].items()}
        optimiser = make(
            [
                {
                    "params": [v],
                    "weight_decay": 0.0 if n == NAMES[0] else decay,
                    "lr": 0.2 if n == "backbone/norm/bias" else 0.1,
                }
                for n, v in values.items()
            ]
        )
        for step in range(6):
            for i, v in enumerate(values.values()):
                v.grad = torch.cos(torch.arange(3.0) + step + i)
            optimiser.step()
            theirs = {n: v.numpy() for n, v in values.items()}
            same([path[step + 1]], [theirs], rtol=1e-5)


@pytest.mark.parametrize("match_reference_code", [False, True])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_bias_multiplier_is_for_biases_but_the_heads_last(kind, match_reference_code):
    changes = {"name": kind, "match_reference_code": match_reference_code, "weight_decay": 0.1}
    found = differ(walk(**changes), walk(**changes, bias_multiplier=3.0))
    ignored = match_reference_code and kind == "adamw"
    assert found == (set() if ignored else {"backbone/norm/bias"})


def test_published_adamw_knows_one_weight_decay_and_is_sgd_without():
    published = {"name": "adamw", "match_reference_code": True}
    same(walk(**published, weight_decay=0.5), walk(**published, weight_decay=1e-4))
    same(walk(**published, weight_decay=0.0), walk(name="sgd", weight_decay=0.0))
    assert differ(walk(name="adamw", weight_decay=0.5), walk(name="adamw", weight_decay=1e-4))
    # After one step without a gradient: what decays has lost lr x 0.01 of itself.
    config = optim(name="adamw", lr=0.1, weight_decay=0.5, warmup_epochs=0.0, schedule="constant")
    params = {n: jnp.ones(2) for n in (*NAMES, "backbone/relative_position_bias_table")}
    optimiser, _ = make_optimizer(config, params, Plan(10, 1, 1), match_reference_code=True)
    grads = {n: jnp.zeros(2) for n in params}
    updates, _ = optimiser.update(grads, optimiser.init(params), params)
    for name, moved in updates.items():
        np.testing.assert_allclose(moved, 0.0 if "bias" in name else -0.001, rtol=1e-6)


def test_parity_decays_all_but_the_heads_last_bias():
    for kind in ("sgd", "adam"):
        config = {"name": kind, "weight_decay": 0.5, "no_decay": r".*/(bias|scale)"}
        bare = walk(name=kind, weight_decay=0.0)
        assert differ(walk(**config), bare) == {"method/head/kernel"}
        assert differ(walk(**config, match_reference_code=True), bare) == {*NAMES} - {
            "method/head/bias"
        }


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("match_reference_code", [False, True])
def test_a_plateau_scales_every_step_after_it(kind, match_reference_code):
    changes = {
        "name": kind,
        "schedule": "plateau",
        "weight_decay": 0.2,
        "match_reference_code": match_reference_code,
    }
    whole, slowed = walk(**changes), walk(**changes, reduced=1)
    same(whole[:3], slowed[:3])
    for name in NAMES:
        step, half = (path[3][name] - path[2][name] for path in (whole, slowed))
        # The published decay looks at the parameter after the step.
        np.testing.assert_allclose(half, step / 2, rtol=1e-4, atol=1e-4)
    optimiser, rate = make_optimizer(
        optim(name=kind, schedule="plateau", lr=0.1), NAMES, Plan(10, 1, 1)
    )
    state = optimiser.init({n: jnp.ones(3) for n in NAMES})
    assert learning_rate(rate, state, 9) == pytest.approx(0.1)
    state = optimizers.reduce_lr(optimizers.reduce_lr(state, 0.5), 0.5)
    assert learning_rate(rate, state, 9) == pytest.approx(0.025)
    assert state[-1].scale.dtype == jnp.float32 and not state[-1].scale.weak_type


def test_hard_restarts_begin_anew_at_the_peak():
    plan = Plan(110, 1, 32)
    config = optim(lr=2.0, warmup_epochs=10.0, schedule="cosine_hardrestart", cycles=4)
    rates = np.asarray(schedule(config, plan, False)(np.arange(110)))
    np.testing.assert_allclose(rates[10:], np.tile(rates[10:35], 4), atol=1e-5)
    np.testing.assert_allclose(rates[10:35], 1 + np.cos(np.pi * np.arange(25) / 25), atol=1e-5)
    assert schedule(config, plan, False)(110) == 0
    once = optim(lr=2.0, warmup_epochs=10.0, schedule="cosine_hardrestart")
    plain = optim(lr=2.0, warmup_epochs=10.0, schedule="cosine")
    for match_reference_code in (False, True):
        a, b = (schedule(c, plan, match_reference_code)(np.arange(110)) for c in (once, plain))
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_cosine_may_end_above_zero():
    config = optim(lr=1.0, warmup_epochs=0.0, min_lr=0.2)
    rates = np.asarray(schedule(config, Plan(100, 1, 1), False)(np.arange(101)))
    assert rates[0] == pytest.approx(1) and rates[100] == pytest.approx(0.2)
    assert rates[50] == pytest.approx(0.6)
    with pytest.raises(UserError, match="optim.min_lr is 2.0, above the peak learning rate of 1"):
        schedule(optim(lr=1.0, min_lr=2.0), Plan(100, 1, 1), False)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"name": "adamx"}, "unknown optim.name 'adamx'. Did you mean 'adam'"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"cycles": 0}, "optim.cycles is 0"),
        ({"plateau_patience": 0}, "optim.plateau_patience is 0"),
        ({"plateau_factor": 1.0}, "optim.plateau_factor is 1.0"),
        ({"bias_multiplier": -1.0}, "optim.bias_multiplier is -1.0"),
        ({"layer_decay": 0.0}, "optim.layer_decay is 0.0; it must be in"),
        ({"min_lr": -1.0}, "optim.min_lr is -1.0"),
    ],
)
def test_choices_that_cannot_be_meant(changes, match):
    with pytest.raises(UserError, match=match):
        optim(**changes)


def test_a_warm_up_from_zero_reaches_the_peak_at_its_end():
    """SA2VP's schedule, with the values its specification gives for 25 steps an epoch."""
    config = optim(lr=1e-3, warmup_epochs=10.0, min_lr=1e-7, warmup_from_zero=True)
    rates = np.asarray(schedule(config, Plan(2500, 25, 40), False)(np.arange(2500)), np.float64)
    assert rates[0] == 0
    expected = {1: 4.01606e-6, 249: 1e-3, 250: 1e-3, 1375: 5.0005e-4, 2499: 1.00487e-7}
    for step, rate in expected.items():
        assert rates[step] == pytest.approx(rate, rel=2e-4), step
