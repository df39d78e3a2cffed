"""Positions that act in attention, attention pooling, and the tanh GELU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.nn.test_layers import normal, same_gradients
from vpjax.nn.activations import gelu_tanh
from vpjax.nn.pooling import AttentionPool
from vpjax.nn.relative_bias import bias_of, table_length
from vpjax.nn.rope import Rope


def test_gelu_tanh_is_the_library_s_with_its_derivative():
    same_gradients(gelu_tanh, lambda x: jax.nn.gelu(x, approximate=True), 3 * normal(7, 11))


@pytest.mark.parametrize("kind", ["eva", "dinov3"])
def test_scores_depend_on_the_distance_of_cells(kind):
    rope, first = Rope(kind, (4, 5), 8), 2
    q, k = (jnp.broadcast_to(normal(8, seed=s), (1, 22, 1, 8)) for s in (0, 1))
    turned = [rope(x, first) for x in (q, k)]
    for x, y in zip((q, k), turned, strict=True):
        np.testing.assert_array_equal(x[:, :first], y[:, :first])
        np.testing.assert_allclose(jnp.linalg.norm(y, axis=-1), jnp.linalg.norm(x, axis=-1), 1e-5)
    scores = jnp.einsum("blnd,bsnd->ls", *turned)[first:, first:].reshape(4, 5, 4, 5)
    np.testing.assert_allclose(scores[0, 0, 2, 1], scores[1, 3, 3, 4], atol=1e-5)
    assert abs(scores[0, 0, 2, 1] - scores[0, 0, 1, 2]) > 1e-3
    few = rope(q[:, :7], first)  # the queries of a layer that returns few tokens
    np.testing.assert_array_equal(few, turned[0][:, :7])


def test_a_reference_grid_stretches_distances():
    wide, narrow = Rope("eva", (4, 4), 8, reference=(8, 8)), Rope("eva", (8, 8), 8)
    x = jnp.ones((1, 64, 1, 8))
    np.testing.assert_allclose(wide(x[:, :16], 0)[0, 5], narrow(x, 0)[0, 2 * 8 + 2], atol=1e-6)


def test_relative_bias_by_its_definition():
    grid, prompts, extra = (2, 3), 2, 1
    table = normal(table_length(grid), 4)
    found = bias_of(table, grid, 1 + prompts + 6, extra)
    assert found.shape == (1, 4, 9, 10)
    where = [None, *[None] * prompts, *np.ndindex(*grid)]
    for i, a in enumerate(where):
        for j, b in enumerate([None] * extra + where):
            row = 0
            if a and b:
                row = table[(a[0] - b[0] + 1) * 5 + a[1] - b[1] + 2]
            elif (i == 0 or a) and (j == extra or b):
                row = table[-3 if b else -2 if a else -1]
            np.testing.assert_array_equal(found[0, :, i, j], jnp.broadcast_to(row, 4))


def test_attention_pooling_does_not_depend_on_the_order_of_tokens():
    pool = AttentionPool(8, 2, 12, rngs=nnx.Rngs(0))
    x = normal(3, 5, 8)
    found = pool(x)
    assert found.shape == (3, 8)
    np.testing.assert_allclose(found, pool(x[:, ::-1]), atol=1e-5)
    v = (x[:, :1] @ pool.attn.value.kernel[...].reshape(8, -1)).reshape(3, 1, 2, 4)
    y = pool.attn.out(v)
    one = (y + pool.mlp.fc2(jax.nn.gelu(pool.mlp.fc1(pool.norm(y)), approximate=False)))[:, 0]
    np.testing.assert_allclose(pool(x[:, :1]), one, atol=1e-5)
