"""softmax(q k^T / sqrt(d)) v, by implementation.

xla        any device and dtype; batched 3-D products, probabilities materialised
cudnn      fused ("flash") attention of NVIDIA GPUs: bfloat16 or float16, nothing of size L x S
           is stored
blockwise  a head at a time, on any device and in any dtype: probabilities of one head are held,
           and none are kept for the backward pass, which makes them again
auto       cudnn where it can run, else xla; resolved once and logged, never changed silently
measured   the faster of two in the run's own training step, see `vpjax.runs.autotune`; where nothing is
           trained, as auto
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vpjax.core.errors import UserError, unknown

IMPLEMENTATIONS = ("xla", "cudnn", "blockwise")
AUTO, MEASURED = "auto", "measured"


def resolve(name: str, dtype: DTypeLike, head_dim: int | None, platform: str | None = None) -> str:
    """Return the implementation that will run: "xla", "cudnn" or "blockwise".

    `head_dim` is None for a backbone without attention that could be fused.

    Raises: UserError if one is asked for where it cannot run, with the reason.
    """
    known = (*IMPLEMENTATIONS, AUTO, MEASURED)
    if name not in known:
        raise unknown("attention implementation", name, known)
    if name == "xla" or (name == "blockwise" and head_dim is not None):
        return name
    if name == "blockwise":
        raise UserError("attention 'blockwise' cannot run: this backbone takes 'xla' or 'auto'.")
    reasons = []
    if (platform or jax.default_backend()) not in ("gpu", "cuda"):
        reasons.append(f"the device is {platform or jax.default_backend()}, not an NVIDIA GPU")
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        reasons.append(f"dtype is {jnp.dtype(dtype).name}, not bfloat16 or float16")
    if head_dim is None:
        reasons.append("this backbone has no attention that can be fused")
    elif head_dim % 8 or head_dim > 128:
        reasons.append(f"a head is {head_dim} wide, not a multiple of 8 up to 128")
    if not reasons:
        return "cudnn"
    if name == "cudnn":
        raise UserError(f"attention 'cudnn' cannot run: {'; '.join(reasons)}. Use 'xla' or 'auto'.")
    return "xla"


def candidates(dtype: DTypeLike, head_dim: int | None, platform: str | None = None) -> list[str]:
    """Return the implementations worth measuring: what stores probabilities, and what does not."""
    if head_dim is None:
        return ["xla"]
    fused = resolve(AUTO, dtype, head_dim, platform)
    return ["xla", fused if fused != "xla" else "blockwise"]


def attention(
    q: Float[Array, "B L N d"],
    k: Float[Array, "B S N d"],
    v: Float[Array, "B S N d"],
    implementation: str = "xla",
    bias: Float[Array, "W N L S"] | None = None,
    drop: Callable | None = None,
) -> Float[Array, "B L N d"]:
    """Scaled dot product attention; the order of keys does not matter.

    `bias` is added to the scores, sequence i getting bias[i % W]; `drop` is applied to the
    probabilities. "xla" alone can do either.
    """
    if implementation != "xla" and (bias is not None or drop is not None):
        raise ValueError(f"attention {implementation!r} takes no bias and drops nothing")
    if implementation == "cudnn":
        return _cudnn(q, k, v)
    if implementation == "blockwise":
        return _by_head(q, k, v)
    # 3-D products: on CPU twice as fast as the 4-D einsum.
    batch, length, heads, width = q.shape
    q, k, v = (x.swapaxes(1, 2).reshape(batch * heads, -1, width) for x in (q, k, v))
    return _xla(q, k, v, bias, drop).reshape(batch, heads, length, width).swapaxes(1, 2)


def _by_head(q: Array, k: Array, v: Array) -> Array:
    # Over heads, not images: those may lie on several devices. In a loop, because XLA finds what
    # is computed twice outside of one, and keeps it.
    heads = [x.transpose(2, 0, 1, 3) for x in (q, k, v)]  # N B L d
    mix = jax.checkpoint(lambda each: _xla(*each), prevent_cse=False)
    return jax.lax.map(mix, heads).transpose(1, 2, 0, 3)


def _xla(
    q: Array, k: Array, v: Array, bias: Array | None = None, drop: Callable | None = None
) -> Array:
    q = q * q.shape[-1] ** -0.5
    if drop is None:
        return _mix(q, k, v, bias)
    return _product("nls,nsd->nld", drop(jax.nn.softmax(_scores(q, k, bias)).astype(v.dtype)), v)


@jax.custom_vjp
def _mix(q: Array, k: Array, v: Array, bias: Array | None) -> Array:
    """softmax(q k^T + bias) v, divided by the sums of the softmax last: L d numbers, not L S.

    One array of L x S is written and kept, and its derivative is one more.
    """
    return _mix_forward(q, k, v, bias)[0]


def _mix_forward(q: Array, k: Array, v: Array, bias: Array | None) -> tuple[Array, tuple]:
    scores = _scores(q, k, bias)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))  # (B N) L S
    share = 1 / weights.sum(-1, keepdims=True)
    weights = weights.astype(v.dtype)
    y = jnp.einsum("nls,nsd->nld", weights, v, preferred_element_type=jnp.float32) * share
    return y.astype(v.dtype), (q, k, v, bias, weights, share)


def _mix_backward(residual: tuple, dy: Array) -> tuple[Array, Array, Array, Array | None]:
    q, k, v, bias, weights, share = residual
    dy = (dy * share).astype(dy.dtype)
    d_weights = jnp.einsum("nld,nsd->nls", dy, v, preferred_element_type=jnp.float32)
    inner = share * (weights * d_weights).sum(-1, keepdims=True)
    d_scores = weights * (d_weights - inner)
    d_bias = None if bias is None else d_scores.reshape(-1, *bias.shape).sum(0).astype(bias.dtype)
    d_scores = d_scores.astype(q.dtype)
    dq = _product("nls,nsd->nld", d_scores, k)
    dk = _product("nls,nld->nsd", d_scores, q)
    return dq, dk, _product("nls,nld->nsd", weights, dy), d_bias


_mix.defvjp(_mix_forward, _mix_backward)


def _scores(q: Array, k: Array, bias: Array | None) -> Array:
    scores = jnp.einsum("nld,nsd->nls", q, k, preferred_element_type=jnp.float32)
    if bias is None:
        return scores
    return (scores.reshape(-1, *bias.shape) + bias).reshape(scores.shape)


def _product(axes: str, a: Array, b: Array) -> Array:
    # Widened by hand: on a CPU bfloat16 products that stay bfloat16 are seven times slower.
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32).astype(b.dtype)


def _cudnn(q: Array, k: Array, v: Array) -> Array:
    # Its backward pass refuses odd lengths (197, 247 ...): pad to even and give the true lengths.
    batch, length, source = q.shape[0], q.shape[1], k.shape[1]
    lengths = {}
    if length % 2 or source % 2:
        lengths = {
            "query_seq_lengths": jnp.full((batch,), length, jnp.int32),
            "key_value_seq_lengths": jnp.full((batch,), source, jnp.int32),
        }
    q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
    y = jax.nn.dot_product_attention(q, k, v, implementation="cudnn", **lengths)
    return y[:, :length]
