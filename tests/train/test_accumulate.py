"""A batch worked through in parts is the same step, with less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers import cases
from tests.models.test_contract import batch, to_input
from vpjax.train import sharding
from vpjax.train.step import init_state, make_train_step


def stepped(method, accumulate, devices=1, masked=0):
    parts = cases.make("vit", method)
    optimizer = optax.sgd(0.1)
    mesh = sharding.make_mesh(devices)
    state = init_state(parts.trainable, parts.stats, optimizer, 0)
    state = sharding.replicate(state, mesh)
    step = make_train_step(parts.graph, optimizer, to_input, 1, accumulate=accumulate)
    images = batch(16)
    images["mask"] = np.arange(16) >= masked
    frozen = sharding.replicate(parts.frozen, mesh)
    state, numbers = step(state, frozen, sharding.put_batch(images, mesh))
    return state.trainable, {k: float(v) for k, v in numbers.items()}


@pytest.mark.parametrize(("accumulate", "devices", "masked"), [(2, 1, 0), (4, 1, 3), (2, 8, 0)])
def test_the_step_is_the_same(accumulate, devices, masked):
    whole, numbers = stepped("vpt_deep", 1, masked=masked)
    parts, again = stepped("vpt_deep", accumulate, devices, masked)
    for name, value in whole.items():
        np.testing.assert_allclose(value, parts[name], atol=1e-6, err_msg=name)
    assert numbers == pytest.approx(again, abs=1e-5)


def test_parts_draw_their_own_randomness():
    whole, _ = stepped("vpt_deep_dropout", 1)
    parts, _ = stepped("vpt_deep_dropout", 2)
    assert any(np.abs(whole[n] - parts[n]).max() > 1e-6 for n in whole)


def test_parts_need_less_memory():
    def temporary(accumulate):
        parts = cases.make("vit", "full")
        optimizer = optax.sgd(0.1)
        step = make_train_step(parts.graph, optimizer, to_input, 1, accumulate=accumulate)
        state = init_state(parts.trainable, parts.stats, optimizer, 0)
        shapes = {
            k: jax.ShapeDtypeStruct(v.shape, jnp.asarray(v).dtype) for k, v in batch(64).items()
        }
        compiled = step.lower(state, parts.frozen, shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(8) < 0.5 * temporary(1)
