"""Attention that never holds all of its probabilities, in plain JAX, for any device.

Keys are taken a block at a time. What is kept between blocks of softmax(q k^T / sqrt(d)) v, for
every query: the largest score so far, and relative to it the sum of the weights and of the weighted
values. The backward pass makes the probabilities again, from the kept logarithm of that sum:

    p = exp(score - log_sum)       d_score = p * (dy v^T - sum(dy * y))

Milakov and Gimelshein 2018, arXiv 1805.02867; Rabe and Staats 2021, arXiv 2112.05682; the backward
pass is that of Dao et al. 2022, arXiv 2205.14135. Memory grows with L + S instead of L S. Scores,
sums and gradients are float32 until the end.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

BLOCK = 128  # keys at most; blocks are of equal size


@jax.custom_vjp
def blockwise(
    q: Float[Array, "M L d"], k: Float[Array, "M S d"], v: Float[Array, "M S d"]
) -> Float[Array, "M L d"]:
    """Scaled dot product attention; M is batch and heads."""
    return _forward(q, k, v)[0]


def _forward(q: Array, k: Array, v: Array) -> tuple[Array, tuple]:
    def step(i, carried):
        highest, total, y = carried  # M L, M L, M L d
        scores = _scores(q, k, i)  # M L s
        new = jnp.maximum(highest, scores.max(-1))
        weights, shrink = jnp.exp(scores - new[..., None]), jnp.exp(highest - new)
        more = _product("mls,msd->mld", weights.astype(v.dtype), _block(v, i))
        return new, total * shrink + weights.sum(-1), y * shrink[..., None] + more

    lowest = jnp.full(q.shape[:-1], -jnp.inf, jnp.float32)
    start = lowest, jnp.zeros_like(lowest), jnp.zeros(q.shape, jnp.float32)
    highest, total, y = lax.fori_loop(0, _layout(k)[0], step, start)
    y = (y / total[..., None]).astype(v.dtype)
    return y, (q, k, v, y, highest + jnp.log(total))


def _backward(residual: tuple, dy: Array) -> tuple[Array, Array, Array]:
    q, k, v, y, log_sum = residual
    inner = (dy.astype(jnp.float32) * y.astype(jnp.float32)).sum(-1, keepdims=True)  # M L 1
    scale = q.shape[-1] ** -0.5

    def step(i, carried):
        dq, dk, dv = carried
        p = jnp.exp(_scores(q, k, i) - log_sum[..., None])  # M L s
        ds = p * (_product("mld,msd->mls", dy, _block(v, i)) - inner)
        ds = (scale * ds).astype(q.dtype)
        dq = dq + _product("mls,msd->mld", ds, _block(k, i))
        dk = _add_block(dk, _product("mls,mld->msd", ds, q), i)
        dv = _add_block(dv, _product("mls,mld->msd", p.astype(dy.dtype), dy), i)
        return dq, dk, dv

    start = tuple(jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
    grads = lax.fori_loop(0, _layout(k)[0], step, start)
    return tuple(g.astype(x.dtype) for g, x in zip(grads, (q, k, v), strict=True))


blockwise.defvjp(_forward, _backward)


def _layout(keys: Array) -> tuple[int, int]:
    """How many blocks, and keys in each."""
    count = -(-keys.shape[1] // BLOCK)
    return count, -(-keys.shape[1] // count)


def _block(x: Array, i: Array) -> Array:
    """Block i of M S d. The last begins early rather than end late, and repeats some keys."""
    size = _layout(x)[1]
    return lax.dynamic_slice_in_dim(x, i * size, size, axis=1)


def _add_block(x: Array, more: Array, i: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(x, _block(x, i) + more, i * _layout(x)[1], axis=1)


def _scores(q: Array, k: Array, i: Array) -> Array:
    """Scores of block i, without those of keys that the block before had."""
    size = _layout(k)[1]
    scores = _product("mld,msd->mls", q * q.shape[-1] ** -0.5, _block(k, i))
    begin = jnp.minimum(i * size, k.shape[1] - size)
    return jnp.where(begin + jnp.arange(size) >= i * size, scores, -jnp.inf)


def _product(axes: str, a: Array, b: Array) -> Array:
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32)
