"""Attention in few arrays, and a head at a time, is attention."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpjax.core.errors import UserError
from vpjax.nn.attention import attention, resolve

LENGTHS = [(5, 9), (1, 256), (150, 297)]
OURS = ("xla", "blockwise")


def draw(queries, keys, dtype=jnp.float32, scale=1.0):
    shapes = (2, queries, 3, 16), (2, keys, 3, 16), (2, keys, 3, 16)
    rng = np.random.default_rng(0)
    return [jnp.asarray(scale * rng.standard_normal(s), dtype) for s in shapes]


def formula(q, k, v):
    scores = jnp.einsum("blnd,bsnd->bnls", q, k) / q.shape[-1] ** 0.5
    return jnp.einsum("bnls,bsnd->blnd", jax.nn.softmax(scores), v)


def both_ways(function, arguments):
    """Returns output and gradients; an implementation's name stands for ours."""

    def weighted(*arguments):
        ours = not callable(function)
        y = attention(*arguments, function) if ours else function(*arguments)
        weights = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return (y.astype(jnp.float32) * weights).sum(), y

    return jax.jit(jax.grad(weighted, (0, 1, 2), has_aux=True))(*arguments)


@pytest.mark.parametrize("implementation", OURS)
@pytest.mark.parametrize(("queries", "keys"), LENGTHS)
def test_it_is_the_formula(queries, keys, implementation):
    arguments = draw(queries, keys)
    ours, exact = both_ways(implementation, arguments), both_ways(formula, arguments)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_bias_and_its_gradient_are_the_formulas():
    q, k, v = draw(5, 9)
    bias = jnp.asarray(np.random.default_rng(1).standard_normal((1, 3, 5, 9)), jnp.float32)

    def biased(b, q=q):
        return jax.nn.softmax(jnp.einsum("blnd,bsnd->bnls", q, k) / 4 + b)

    ours = jax.grad(lambda b: (attention(q, k, v, "xla", b) ** 2).sum())(bias)
    exact = jax.grad(lambda b: (jnp.einsum("bnls,bsnd->blnd", biased(b), v) ** 2).sum())(bias)
    np.testing.assert_allclose(ours, exact, atol=1e-5)


@pytest.mark.parametrize("implementation", OURS)
def test_scores_far_apart_neither_overflow_nor_vanish(implementation):
    arguments = draw(3, 256, scale=100.0)
    ours, exact = both_ways(implementation, arguments), both_ways(formula, arguments)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("implementation", OURS)
def test_low_precision_stays_low_and_close(implementation):
    (dq, dk, dv), y = both_ways(implementation, draw(6, 300, jnp.bfloat16))
    assert {x.dtype for x in (dq, dk, dv, y)} == {jnp.dtype(jnp.bfloat16)}
    for a, b in zip(((dq, dk, dv), y), both_ways(formula, draw(6, 300)), strict=True):
        for mine, exact in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(mine.astype(jnp.float32), exact, atol=3e-2)


@pytest.mark.parametrize("implementation", OURS)
def test_a_head_at_a_time_holds_the_probabilities_of_one(implementation):
    arguments = draw(401, 499)  # of 2 images and 3 heads
    jaxpr = str(jax.make_jaxpr(lambda *a: both_ways(implementation, a))(*arguments))
    held = set(re.findall(r"\[([\d,]*),401,499\]", jaxpr))
    assert held == ({"6"} if implementation == "xla" else {"2"})


def test_where_blockwise_runs():
    assert resolve("blockwise", jnp.float32, 7, "cpu") == "blockwise"
    assert resolve("auto", jnp.float32, 64, "cpu") == "xla"
    with pytest.raises(UserError, match="cannot run"):
        resolve("blockwise", jnp.float32, None)
    with pytest.raises(ValueError, match="bias"):
        attention(*draw(4, 4), "blockwise", jnp.zeros((1, 3, 4, 4)))
