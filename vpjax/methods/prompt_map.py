"""The modules that SA2VP trains beside its head: maps of prompts and bottlenecks.

    map, R wide -> up -> tokens, D wide            norm -> down to R -> gelu -> up

Pei et al. 2024, arXiv 2312.10376. The published code draws Xavier weights and biases near zero. On
Swin its backbone's initialisation runs later and leaves N(0, 0.02^2) and 0: here `flat=False`.
"""

import math

import jax
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Site
from vpjax.nn.activations import gelu
from vpjax.nn.context import Context
from vpjax.nn.layers import Dense, LayerNorm


class Linear(Dense):
    """A linear layer, initialised by the rule for ViTs (`flat`) or for Swin.

    Args:
        width: input width.
        dim: output width.
        flat: whether the backbone has a single stage, see above.
        rngs: draws weights and bias.
    """

    def __init__(self, width: int, dim: int, flat: bool, *, rngs: nnx.Rngs):
        super().__init__((width,), (dim,), rngs=rngs)
        if flat:
            self.bias = nnx.Param(1e-6 * jax.random.normal(rngs.params(), (dim,)))
        else:
            self.kernel = nnx.Param(normal((width, dim), rngs))


class PromptMap(nnx.Module):
    """Narrow prompts for every token of a layer, and a linear layer to the width of the tokens.

    Args:
        num_prefix_tokens: tokens before the grid.
        site: the layer, which gives grid and width.
        width: R, of the prompts.
        flat: see `Linear`.
        rngs: draws all weights.
    """

    def __init__(
        self, num_prefix_tokens: int, site: Site, width: int, flat: bool, *, rngs: nnx.Rngs
    ):
        self.map = nnx.Param(normal((num_prefix_tokens + math.prod(site.grid), width), rngs))
        self.up = Linear(width, site.dim, flat, rngs=rngs)

    def __call__(self, dtype: jax.typing.DTypeLike) -> Float[Array, "L D"]:
        return self.up(self.map[...].astype(dtype))


class WeightedMap(nnx.Module):
    """A map of prompts and a weight for each of its channels; see `PromptMap` for the arguments."""

    def __init__(
        self, num_prefix_tokens: int, site: Site, width: int, flat: bool, *, rngs: nnx.Rngs
    ):
        self.prompt = PromptMap(num_prefix_tokens, site, width, flat, rngs=rngs)
        self.weight = nnx.Param(normal((site.dim,), rngs))


class Bottleneck(nnx.Module):
    """A bottleneck without residual: norm, down to `width`, gelu, up to `dim`.

    Args:
        dim: D, of the tokens.
        width: R.
        flat: see `Linear`.
        rngs: draws all weights.
    """

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
    """Draw from N(0, 0.02^2)."""
    return 0.02 * jax.random.normal(rngs.params(), shape)
