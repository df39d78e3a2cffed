"""Attention by blocks of keys is attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpjax.attention import attention, resolve
from vpjax.blockwise import BLOCK
from vpjax.errors import UserError

LENGTHS = [(5, 9), (7, BLOCK + 1), (1, 2 * BLOCK), (150, 297)]


def draw(queries, keys, dtype=jnp.float32, scale=1.0):
    shapes = (2, queries, 3, 16), (2, keys, 3, 16), (2, keys, 3, 16)
    rng = np.random.default_rng(0)
    return [jnp.asarray(scale * rng.standard_normal(s), dtype) for s in shapes]


def both_ways(implementation, arguments):
    """Returns output and gradients."""

    def weighted(*arguments):
        y = attention(*arguments, implementation)
        weights = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return (y.astype(jnp.float32) * weights).sum(), y

    return jax.jit(jax.grad(weighted, (0, 1, 2), has_aux=True))(*arguments)


@pytest.mark.parametrize(("queries", "keys"), LENGTHS)
def test_blockwise_is_exact(queries, keys):
    arguments = draw(queries, keys)
    ours, plain = both_ways("blockwise", arguments), both_ways("xla", arguments)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_scores_far_apart_neither_overflow_nor_vanish():
    q, k, v = draw(3, 2 * BLOCK, scale=100.0)
    y = attention(q, k, v, "blockwise")
    np.testing.assert_allclose(y, attention(q, k, v, "xla"), rtol=1e-4, atol=1e-3)


def test_low_precision_stays_low_and_close():
    (dq, dk, dv), y = both_ways("blockwise", draw(6, 300, jnp.bfloat16))
    assert {x.dtype for x in (dq, dk, dv, y)} == {jnp.dtype(jnp.bfloat16)}
    for a, b in zip(((dq, dk, dv), y), both_ways("xla", draw(6, 300)), strict=True):
        for mine, exact in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(mine.astype(jnp.float32), exact, atol=3e-2)


@pytest.mark.parametrize("implementation", ["xla", "blockwise"])
def test_nothing_of_all_queries_by_all_keys_is_kept_by_blocks(implementation):
    arguments = draw(401, 499)
    jaxpr = str(jax.make_jaxpr(lambda *a: both_ways(implementation, a))(*arguments))
    assert ("401,499]" in jaxpr) == (implementation == "xla")


def test_where_blockwise_runs():
    assert resolve("blockwise", jnp.float32, 7, "cpu") == "blockwise"
    assert resolve("auto", jnp.float32, 64, "cpu") == "xla"
    with pytest.raises(UserError, match="cannot run"):
        resolve("blockwise", jnp.float32, None)
    with pytest.raises(ValueError, match="bias"):
        attention(*draw(4, 4), "blockwise", jnp.zeros((1, 3, 4, 4)))
