"""The module of bottleneck adapters, and how it starts.

lora      down and its bias U(+-1/sqrt(D)), up zero: the backbone's own function
kaiming   the same, biases zero: AdaptFormer's
houlsby   both N(0, 0.01^2) cut at 0.02, biases zero
bert      both N(0, 0.02^2), biases zero
xavier    both Xavier uniform, biases N(0, 1e-12): NOAH's
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.core.errors import UserError, unknown
from vpjax.nn.activations import gelu, quick_gelu
from vpjax.nn.context import Context
from vpjax.nn.layers import LayerNorm

INITS = ("lora", "kaiming", "houlsby", "bert", "xavier")
ACTS = {"gelu": gelu, "quick_gelu": quick_gelu, "relu": jax.nn.relu, "none": lambda x: x}


class Bottleneck(nnx.Module):
    """A narrow layer between two linear ones: *B L D -> *B L D.

    Args:
        dim: D.
        rank: width inside.
        name: of the adapter in its block, for its random numbers.
        options: those of `vpjax.methods.bottleneck.Placed`.
    """

    def __init__(
        self,
        dim: int,
        rank: int,
        name: str,
        *,
        scale: float,
        scaling: str,
        norm: str,
        eps: float,
        activation: str,
        dropout: float,
        drop_path: float,
        bias: bool,
        init: str,
        rngs: nnx.Rngs,
    ):
        if rank < 1:
            raise UserError(f"rank is {rank}; give 1 or more")
        for key, value, known in (
            ("activation", activation, ACTS),
            ("scaling", scaling, ("fixed", "learned", "channel")),
            ("norm", norm, ("none", "in", "out")),
        ):
            if value not in known:
                raise unknown(key, value, known)
        self.name, self.where, self.activation = name, norm, activation
        self.dropout, self.drop_path = dropout, drop_path
        self.norm = LayerNorm(dim, eps=eps) if norm != "none" else None
        start = _starts(init, dim, rank, rngs)
        self.down, self.up = nnx.Param(start[0]), nnx.Param(start[2])
        self.down_bias = nnx.Param(start[1]) if bias else None
        self.up_bias = nnx.Param(start[3]) if bias else None
        self.scale = scale
        width = {"learned": 1, "channel": dim}.get(scaling)
        self.scaling = nnx.Param(jnp.full(width, scale)) if width else None

    def __call__(self, x: Float[Array, "*B L D"], ctx: Context) -> Float[Array, "*B L D"]:
        down, down_bias, up, up_bias = (
            0 if p is None else p[...].astype(x.dtype)
            for p in (self.down, self.down_bias, self.up, self.up_bias)
        )
        h = self.norm(x) if self.where == "in" else x
        h = ACTS[self.activation](h @ down + down_bias)
        y = ctx.dropout(h, self.dropout, f"{self.name}.hidden") @ up + up_bias
        if self.drop_path:  # of whole images, whether or not the backbone's own acts
            y = y * ctx.dropout(jnp.ones((len(y), 1, 1), y.dtype), self.drop_path, self.branch)
        y = y * (self.scale if self.scaling is None else self.scaling[...].astype(y.dtype))
        return self.norm(y) if self.where == "out" else y

    @property
    def branch(self) -> str:
        """Tag of the stochastic depth."""
        return f"{self.name}.branch"


def _starts(init: str, dim: int, rank: int, rngs: nnx.Rngs) -> list[Array]:
    """Return how the two matrices and biases start: down, its bias, up, its bias."""
    down, up, key = (dim, rank), (rank, dim), rngs.params
    uniform = lambda shape, bound: jax.random.uniform(  # noqa: E731
        key(), shape, minval=-bound, maxval=bound
    )
    zeros = jnp.zeros(rank), jnp.zeros(dim)
    if init in ("lora", "kaiming"):
        bound = 1 / math.sqrt(dim)
        bias = uniform((rank,), bound) if init == "lora" else zeros[0]
        return [uniform(down, bound), bias, jnp.zeros(up), zeros[1]]
    if init == "xavier":
        bound = math.sqrt(6 / (dim + rank))
        small = [1e-6 * jax.random.normal(key(), (n,)) for n in (rank, dim)]
        return [uniform(down, bound), small[0], uniform(up, bound), small[1]]
    if init == "houlsby":
        first, last = (0.01 * jax.random.truncated_normal(key(), -2, 2, s) for s in (down, up))
    else:
        first, last = (0.02 * jax.random.normal(key(), s) for s in (down, up))
    return [first, zeros[0], last, zeros[1]]
