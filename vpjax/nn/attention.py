"""softmax(q k^T / sqrt(d)) v, by implementation.

xla        any device and dtype; batched 3-D products, probabilities stored
cudnn      fused ("flash") attention of NVIDIA GPUs: bfloat16 or float16, nothing of size L x S
           is stored
blockwise  one head at a time, on any device and in any dtype: the probabilities of one head are
           held at once, and the backward pass computes them again instead of keeping them
auto       cudnn where it can run, else xla; resolved once and logged, never changed silently
measured   the faster of two in the run's own training step, see `vpjax.runs.autotune`; without
           training as auto
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

    Args:
        name: one of `IMPLEMENTATIONS`, "auto" or "measured".
        dtype: of the queries, keys and values.
        head_dim: width of an attention head; None for a backbone whose attention cannot be fused.
        platform: of the device, such as "cpu" or "gpu"; None: JAX's default.

    Raises:
        UserError: if `name` is unknown, or asks for what cannot run here, with the reason.
    """
    known = (*IMPLEMENTATIONS, AUTO, MEASURED)
    if name not in known:
        raise unknown("attention implementation", name, known)
    if name == "xla" or (name == "blockwise" and head_dim is not None):
        return name
    if name == "blockwise":
        raise UserError(
            "attention 'blockwise' cannot run: this backbone's attention has a bias or dropout, or "
            "it has none. Use 'xla' or 'auto'."
        )
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
    """Return the implementations worth timing: one that stores probabilities, one that does not.

    See `resolve` for the arguments.
    """
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
    """Apply scaled dot-product attention, softmax(q k^T / sqrt(d) + bias) v.

    Args:
        q: queries.
        k: keys; their order does not matter.
        v: values.
        implementation: one of `IMPLEMENTATIONS`.
        bias: added to the scores; sequence i of the batch gets bias[i % W]. Needs "xla".
        drop: probabilities -> probabilities, their dropout. Needs "xla".

    Raises:
        ValueError: if `bias` or `drop` is given to another implementation than "xla".
    """
    if implementation != "xla" and (bias is not None or drop is not None):
        raise ValueError(f"attention {implementation!r} takes no bias and no dropout; use 'xla'")
    if implementation == "cudnn":
        return _cudnn(q, k, v)
    if implementation == "blockwise":
        return _by_head(q, k, v)
    # 3-D products: on CPU twice as fast as the 4-D einsum.
    batch, length, heads, width = q.shape
    q, k, v = (x.swapaxes(1, 2).reshape(batch * heads, -1, width) for x in (q, k, v))
    return _xla(q, k, v, bias, drop).reshape(batch, heads, length, width).swapaxes(1, 2)


def _by_head(q: Array, k: Array, v: Array) -> Array:
    # Over heads, not images, which may lie on several devices. In a loop, because outside of one
    # XLA finds what is computed twice and keeps it.
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
    """Compute softmax(q k^T + bias) v, dividing by the sums last: L d divisions, not L S.

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
