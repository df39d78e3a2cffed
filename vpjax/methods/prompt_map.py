"""What SA2VP trains beside its head: maps of prompts and bottlenecks.

    map r -> up -> tokens of full width            norm -> down to r -> gelu -> up

Pei et al. 2024, arXiv 2312.10376. The published code draws Xavier weights and almost no bias; on
Swin the backbone's own rule runs later and leaves N(0, 0.02) and 0: `flat=False`.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Site
from vpjax.nn.activations import gelu
from vpjax.nn.context import Context
from vpjax.nn.layers import Dense, LayerNorm


class Linear(Dense):
    """A dense layer drawn by either rule."""

    def __init__(self, width: int, dim: int, flat: bool, *, rngs: nnx.Rngs):
        super().__init__((width,), (dim,), rngs=rngs)
        if flat:
            self.bias = nnx.Param(1e-6 * jax.random.normal(rngs.params(), (dim,)))
        else:
            self.kernel = nnx.Param(normal((width, dim), rngs))


class PromptMap(nnx.Module):
    """Prompts of a small width for every token of a site, and their way up to its width."""

    def __init__(
        self, num_prefix_tokens: int, site: Site, width: int, flat: bool, *, rngs: nnx.Rngs
    ):
        self.map = nnx.Param(normal((num_prefix_tokens + math.prod(site.grid), width), rngs))
        self.up = Linear(width, site.dim, flat, rngs=rngs)

    def __call__(self, dtype: jnp.dtype) -> Float[Array, "L D"]:
        return self.up(self.map[...].astype(dtype))


class WeightedMap(nnx.Module):
    """A map of prompts and the weight of each of its channels."""

    def __init__(
        self, num_prefix_tokens: int, site: Site, width: int, flat: bool, *, rngs: nnx.Rngs
    ):
        self.prompt = PromptMap(num_prefix_tokens, site, width, flat, rngs=rngs)
        self.weight = nnx.Param(normal((site.dim,), rngs))


class Bottleneck(nnx.Module):
    """norm, down, gelu, up; no residual."""

    def __init__(self, dim: int, width: int, flat: bool, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(dim)
        self.fc1 = Linear(dim, width, flat, rngs=rngs)
        self.fc2 = Linear(width, dim, flat, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B K D"], rate: float, ctx: Context
    ) -> Float[Array, "B K D"]:
        h = ctx.dropout(gelu(self.fc1(self.norm(x))), rate, "adapter.fc1")
        return ctx.dropout(self.fc2(h), rate, "adapter.fc2")


def normal(shape: tuple[int, ...], rngs: nnx.Rngs) -> Array:
    """Draw N(0, 0.02)."""
    return 0.02 * jax.random.normal(rngs.params(), shape)
