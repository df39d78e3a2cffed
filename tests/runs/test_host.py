"""The host's side of the loop: it compiles once, waits for nothing it needs not, copies nothing
unasked, and keeps no second state."""

import contextlib
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.runs import config
from vpjax.runs import fit as fitting
from vpjax.runs.fit import AHEAD, fit, wait_for_device
from vpjax.train import optim, sharding
from vpjax.train.schedules import Plan


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def replaced_step(monkeypatch, wrap):
    """Gives the loop wrap(step) in place of the compiled training step."""
    real = fitting.compiled
    monkeypatch.setattr(fitting, "compiled", lambda *given: wrap(real(*given)))


class Compiled(logging.Handler):
    """The names of the programs that JAX compiles, in order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def emit(self, record):
        if found := re.match(r"Compiling (?:jit\()?(\w+)", record.getMessage()):
            self.names.append(found[1])


@contextlib.contextmanager
def compilations():
    handler, logger = Compiled(), logging.getLogger("jax")
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield handler.names
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def test_the_counter_of_compilations_counts():
    @jax.jit
    def never_seen_before(x):
        return x + 41

    with compilations() as names:
        never_seen_before(jnp.zeros(3))
        never_seen_before(jnp.zeros(3))
        never_seen_before(jnp.zeros(4))
    assert names.count("never_seen_before") == 2


def test_a_run_compiles_one_program_a_shape_and_none_after_its_first_evaluation(
    tmp_path, monkeypatch
):
    seen, real = [], fitting.evaluate_metrics

    def measure(*given):
        values = real(*given)
        seen.append(len(names))
        return values

    monkeypatch.setattr(fitting, "evaluate_metrics", measure)
    settings = config(data={"eval_batch_size": 64}, mesh={"data": 1})
    with compilations() as names:
        fit(settings, tmp_path)
    # Of 130 and 366 images the last batches are short: padded, so that they are no other shape.
    assert names.count("train_step") == 1
    assert names.count("eval_step") == 1
    assert len(seen) > 2
    # Between evaluations lie steps, lines of the history and saved checkpoints.
    assert seen[-1] == seen[0], names[seen[0] :]


class Spy:
    """A number on the device that notes when it is waited for or read."""

    def __init__(self, value, step, notes):
        self.value, self.step, self.notes = value, step, notes

    def block_until_ready(self):
        self.notes("waited", self.step)
        return self

    def __array__(self, *_, **__):
        self.notes("read", self.step)
        return np.asarray(self.value)


def test_between_lines_of_the_history_the_host_waits_for_old_steps_only(tmp_path, monkeypatch):
    every, steps, now, found = 10, 25, [0], []

    def wrap(step):
        def spied(state, frozen, batch):
            state, numbers = step(state, frozen, batch)
            now[0] += 1
            notes = lambda what, of: found.append((what, of, now[0]))  # noqa: E731
            return state, {k: Spy(v, now[0], notes) for k, v in numbers.items()}

        return spied

    replaced_step(monkeypatch, wrap)
    train = {"steps": steps, "log_every": every, "eval_every": 10.0}
    fit(config(train=train, data={"val": "", "test": ""}), tmp_path)
    assert {of for what, of, at in found if what == "read"} == set(range(1, steps + 1))
    for what, of, at in found:
        line = at % every == 0 or at == steps
        first = of == at == 1  # whose time is reported
        assert line or first or at - of >= AHEAD, (what, of, at)
    assert ("waited", 3, 3 + AHEAD) in found


def test_the_host_is_never_far_ahead():
    done = []
    number = lambda step: Spy(0.0, step, lambda what, of: done.append(of))  # noqa: E731
    recent = [{"loss": number(step)} for step in range(1, AHEAD + 1)]
    assert wait_for_device(recent, AHEAD) is None
    assert not done
    recent.append({"loss": number(AHEAD + 1)})
    assert wait_for_device(recent, AHEAD + 1)[0] == 1
    assert done == [1]


def test_nothing_is_copied_between_host_and_device_unasked(tmp_path, monkeypatch):
    loop = contextlib.ExitStack()

    def wrap(step):
        loop.enter_context(jax.transfer_guard("disallow"))
        with pytest.raises(Exception, match="[Dd]isallowed"):
            jnp.add(jnp.ones(2), np.ones(2))  # so the guard is on
        return step

    replaced_step(monkeypatch, wrap)
    real = fitting.selected_state
    monkeypatch.setattr(fitting, "selected_state", lambda *given: (loop.close(), real(*given))[1])
    # Evaluations, lines of the history and checkpoints included.
    with loop:
        found = fit(config(), tmp_path)
    assert found["step"] == 12


def test_the_state_is_given_away_at_every_step_and_frozen_numbers_are_not(tmp_path, monkeypatch):
    gone, kept = [], []

    def wrap(step):
        def spied(state, frozen, batch):
            out = step(state, frozen, batch)  # a warning that it was no use would be an error
            gone.append(all(leaf.is_deleted() for leaf in jax.tree.leaves(state)))
            kept.append(not any(leaf.is_deleted() for leaf in jax.tree.leaves((frozen, batch))))
            return out

        return spied

    replaced_step(monkeypatch, wrap)
    # Without an evaluation in between: on a CPU a checkpoint's numbers are the state's own memory.
    fit(config(train={"steps": 3, "eval_every": 1.0}), tmp_path)
    assert len(gone) == 3
    assert all(gone)
    assert all(kept)


def test_one_batch_is_on_its_way_while_another_is_worked_on():
    taken = []

    def batches():
        for i in range(4):
            taken.append(i)
            yield {"image": np.full((8, 2), i)}

    ahead = sharding.prefetch(batches(), sharding.make_mesh())
    for i, batch in enumerate(ahead):
        assert int(batch["image"][0, 0]) == i
        assert len(batch["image"].sharding.device_set) == 8
        assert len(taken) == min(i + 2, 4)


def test_reading_the_rate_is_one_program():
    plan = Plan(steps=100, steps_per_epoch=10, batch_size=8)
    optimiser, rate = optim.make_optimizer(
        optim.Settings(**config().optim), ["method/head/bias"], plan
    )
    state = optimiser.init({"method/head/bias": jnp.zeros(3)})
    with compilations() as names, jax.transfer_guard("disallow"):
        rates = [optim.learning_rate(rate, state, step) for step in (0, 5, 99)]
    assert len(names) <= 1
    assert rates[1] > rates[0] > 0
    assert all(isinstance(r, float) for r in rates)
