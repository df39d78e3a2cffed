"""softmax(q k^T / sqrt(d)) v, by implementation.

xla        any device and dtype; batched 3-D products, probabilities materialised
cudnn      fused ("flash") attention of NVIDIA GPUs: bfloat16 or float16, nothing of size L x S
           is stored
blockwise  the same saving on any device and in any dtype, see `vpjax.blockwise`
auto       cudnn where it can run, else xla; resolved once and logged, never changed silently
measured   the faster of two in the run's own training step, see `vpjax.choose`; where nothing is
           trained, as auto
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vpjax.blockwise import blockwise
from vpjax.errors import UserError, unknown

IMPLEMENTATIONS = ("xla", "cudnn", "blockwise")
AUTO, MEASURED = "auto", "measured"


def resolve(name: str, dtype: DTypeLike, head_dim: int | None, platform: str | None = None) -> str:
    """Returns the implementation that will run: "xla", "cudnn" or "blockwise".

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
    """Returns the implementations worth measuring: what stores probabilities, and what does not."""
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
    # 3-D products: on CPU twice as fast as the 4-D einsum.
    batch, length, heads, width = q.shape
    q, k, v = (x.swapaxes(1, 2).reshape(batch * heads, -1, width) for x in (q, k, v))
    y = blockwise(q, k, v) if implementation == "blockwise" else _xla(q, k, v, bias, drop)
    return y.reshape(batch, heads, length, width).swapaxes(1, 2)


def _xla(q: Array, k: Array, v: Array, bias: Array | None, drop: Callable | None) -> Array:
    width = q.shape[-1]
    logits = jnp.einsum("nld,nsd->nls", q * width**-0.5, k, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = (logits.reshape(-1, *bias.shape) + bias).reshape(logits.shape)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)  # (B N) L S
    weights = weights if drop is None else drop(weights)
    return jnp.einsum("nls,nsd->nld", weights, v)


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
