"""Schedules of networks trained from scratch: one cycle, steps, whole epochs."""

import dataclasses

import numpy as np
import pytest

from tests.train.test_optim import NAMES, optim, same, schedule, walk
from vpjax.core.errors import UserError
from vpjax.train.optim import OPTIMIZERS, make_optimizer
from vpjax.train.schedules import Plan, one_cycle

STEPS = np.arange(100)


def test_one_cycle_rises_and_falls_while_momentum_falls_and_rises():
    rates = np.asarray(
        schedule(optim(lr=0.25, schedule="onecycle"), Plan(100, 10, 1), False)(STEPS)
    )
    share, momentum = one_cycle(100)
    np.testing.assert_allclose(rates, 0.25 * np.asarray(share(STEPS)))
    assert rates[0] == pytest.approx(0.01) and rates[29] == pytest.approx(0.25)
    assert rates[99] == pytest.approx(1e-6)
    assert np.all(np.diff(rates[:30]) > 0) and np.all(np.diff(rates[29:]) < 0)
    momenta = np.asarray(momentum(STEPS))
    assert momenta[[0, 29, 99]] == pytest.approx([0.95, 0.85, 0.95])
    still = schedule(optim(lr=0.25, schedule="onecycle"), Plan(100, 10, 1), True)(STEPS)
    np.testing.assert_allclose(still, 0.01, rtol=1e-6)


@pytest.mark.parametrize("match_reference_code", [False, True])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_one_cycle_is_that_of_torch(kind, match_reference_code):
    torch = pytest.importorskip("torch")
    changes = {"name": kind, "schedule": "onecycle", "weight_decay": 0.1, "no_decay": ""}
    path = walk(8, match_reference_code=match_reference_code, **changes)
    values = {n: torch.tensor(np.asarray(v)) for n, v in path[0].items()}
    make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    extra = {"momentum": 0.9} if kind == "sgd" else {}
    optimiser = make(values.values(), lr=0.1, weight_decay=0.1, **extra)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.1, total_steps=10)
    for step in range(8):
        for i, v in enumerate(values.values()):
            v.grad = torch.cos(torch.arange(3.0) + step + i)
        optimiser.step()
        if (
            not match_reference_code
        ):  # the published code builds the cycle and leaves it where it begins
            cycle.step()
        same([path[step + 1]], [{n: v.numpy() for n, v in values.items()}], rtol=2e-5)


def test_steps_fall_every_so_many_epochs():
    config = optim(lr=1.0, schedule="step", warmup_epochs=0.0, step_epochs=2.0, step_factor=0.5)
    rates = np.asarray(schedule(config, Plan(18, 3, 1), False)(np.arange(18)))
    np.testing.assert_allclose(rates, np.repeat([1, 0.5, 0.25], 6))
    config = dataclasses.replace(config, schedule_by_epoch=True, step_epochs=1.5)
    rates = np.asarray(schedule(config, Plan(18, 3, 1), False)(np.arange(18)))
    np.testing.assert_allclose(rates, np.repeat([1, 1, 0.5, 0.25, 0.25, 0.125], 3))


def test_a_cosine_may_stay_within_an_epoch():
    config = optim(lr=1.0, warmup_epochs=0.0, schedule_by_epoch=True)
    rates = np.asarray(schedule(config, Plan(12, 3, 1), False)(np.arange(13)))
    np.testing.assert_allclose(rates[:12], np.repeat((1 + np.cos(np.pi * STEPS[:4] / 4)) / 2, 3))
    assert rates[12] == pytest.approx(0)


@pytest.mark.parametrize("key", ["step_epochs", "step_factor"])
def test_falls_that_cannot_be_meant(key):
    with pytest.raises(UserError, match=f"optim.{key} is -1.0"):
        make_optimizer(optim(**{key: -1.0}), NAMES, Plan(10, 1, 1))


def test_the_cosine_of_timm_is_behind_by_an_epoch_and_begins_with_the_run():
    settings = optim(
        lr=1e-3, lr_base_batch_size=0, schedule="cosine_timm", warmup_epochs=10.0, min_lr=1e-5
    )
    rates = np.asarray(schedule(settings, Plan(1500, 15, 64), False)(np.arange(1500)))
    epochs = rates.reshape(100, 15)
    np.testing.assert_array_equal(epochs, epochs[:, :1] * np.ones((1, 15), np.float32))
    assert epochs[:3, 0] == pytest.approx([1e-6, 1e-6, 1.009e-4], rel=1e-4)
    assert epochs.max() == epochs[11, 0] == pytest.approx(9.758e-4, rel=1e-4)
    assert epochs[99, 0] == pytest.approx(1.098e-5, rel=1e-3)
    with pytest.raises(UserError, match="cosine_timm"):
        schedule(settings, Plan(1500, 15, 64), True)
