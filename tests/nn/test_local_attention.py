"""Attention to the same place in another map: who sees whom, and that both forms agree."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpjax.core.errors import UserError
from vpjax.nn.local_attention import FORMS, VARIANTS, local_attention, neighbours

GRID = (3, 4)
CELLS = 12


def qkv(extra, batch=2, heads=2, width=3):
    shape = (3, batch, extra + CELLS, heads, width)
    return jax.random.normal(jax.random.key(extra), shape)


def by_loops(q, k, v, extra, variant):
    """One query after the other, in float64."""
    heads = q.shape[2:]
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    if variant == "acc":
        q, k, v = (x.reshape(*x.shape[:2], 1, -1) for x in (q, k, v))
    out = np.zeros_like(q)
    for b, i, n in itertools.product(*map(range, q.shape[:3])):
        seen = list(range(k.shape[1]))
        outside = 0
        if i >= extra:
            y, x = divmod(i - extra, GRID[1])
            around = itertools.product((y - 1, y, y + 1), (x - 1, x, x + 1))
            inside = [(r, c) for r, c in around if 0 <= r < GRID[0] and 0 <= c < GRID[1]]
            seen = [extra + r * GRID[1] + c for r, c in inside]
            outside = (9 - len(seen)) * (variant == "acc")
        weights = np.exp(k[b, seen, n] @ q[b, i, n] / q.shape[-1] ** 0.5)
        out[b, i, n] = weights @ v[b, seen, n] / (weights.sum() + outside)
    return out.reshape(*out.shape[:2], *heads)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_equals_loops(extra, variant, form):
    q, k, v = qkv(extra)
    ours = jax.jit(local_attention, static_argnums=(3, 4, 5))(q, k, v, GRID, variant, form)
    np.testing.assert_allclose(ours, by_loops(q, k, v, extra, variant), atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_forms_have_one_gradient(variant):
    q, k, v = qkv(1)

    def grads(form):
        total = lambda *x: jnp.sin(local_attention(*x, GRID, variant, form)).sum()  # noqa: E731
        return jax.jit(jax.grad(total, argnums=(0, 1, 2)))(q, k, v)

    for a, b in zip(grads("dense"), grads("rows"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_few_queries_get_what_all_would(form):
    q, k, v = qkv(1)
    whole = local_attention(q, k, v, GRID, "acc", form)
    np.testing.assert_allclose(
        local_attention(q[:, :5], k, v, GRID, "acc", form), whole[:, :5], atol=1e-6
    )


def test_queries_of_no_image_serve_all():
    q, k, v = qkv(1)
    one = local_attention(q[:1], k, v, GRID)
    np.testing.assert_allclose(one[1:], local_attention(q[:1], k[1:], v[1:], GRID), atol=1e-6)


def test_rows_compute_three_rows_of_scores_unless_queries_are_few():
    grid = (6, 5)
    x = jax.ShapeDtypeStruct((1, 31, 1, 2), jnp.float32)

    def sizes(queries, form="auto"):
        call = lambda q, k, v: local_attention(q[:, :queries], k, v, grid, form=form)  # noqa: E731
        jaxpr = jax.jit(call).lower(x, x, x).as_text()
        return "6x5x15" in jaxpr, f"{queries}x31" in jaxpr

    assert sizes(31) == (True, False)
    assert sizes(31, "dense") == (False, True)
    assert sizes(4) == (False, True)


def test_neighbours():
    seen = neighbours((3, 3), num_prefix_tokens=1)
    assert seen.sum(1).tolist() == [10, 4, 6, 4, 6, 9, 6, 4, 6, 4]
    assert not seen[1:, 0].any()
    with pytest.raises(UserError, match="no cells"):
        neighbours((0, 3), num_prefix_tokens=1)
