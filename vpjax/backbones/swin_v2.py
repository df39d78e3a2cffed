"""Swin Transformer, version 2: scores are cosines, and norms follow attention and MLP.

    x = x + norm1(attn(x))          scores: cos(q, k) * exp(logit_scale) + 16 sigmoid(mlp(offset))
    x = x + norm2(mlp(x))

Liu et al. 2022, arXiv 2111.09883. A small MLP turns the offset between two cells into their bias.
Offsets are on a logarithmic scale, in units of the windows that the weights were trained with
(`pretrained_windows`), so that larger windows continue the function. Grid, windows, prompts and
merging are those of `vpjax.backbones.swin`. As no norm comes before attention, prompts enter it as
they are; their bias is the middle of the range, 8.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.swin import EPS, Merging, Swin, SwinBlock, WindowAttention
from vpjax.core.errors import UserError
from vpjax.nn.context import Context
from vpjax.nn.layers import Dense, LayerNorm
from vpjax.nn.tokens import Tokens
from vpjax.nn.windows import Windows

USUAL = 256, 8  # pixels, cells of a window
HIDDEN = 512  # width of the MLP of offsets
HIGHEST = math.log(100)  # of logit_scale
STRONGEST = 16  # bias
SPAN = 8  # where the largest offset lies before the logarithm


class SwinV2(Swin):
    """A Swin Transformer of version 2; features are `embed_dim` x 2^(stages - 1) wide.

    What is None is the weights' if they say it, see `vpjax.weights.swin`.

    Args:
        variant: a size of `vpjax.backbones.swin.VARIANTS`: "T", "S", "B" or "L"; None: "B".
        image_size: an edge or (height, width), pixels; None: 256.
        window: cells along the edge of a window, one number or one each stage; None: 8.
        pretrained_windows: windows that the weights were trained with, one number or one each
            stage; 0 or None: the model's own.

    Raises:
        UserError: for an unknown variant, or sizes that do not fit together.
    """

    def __init__(
        self,
        variant: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        *,
        window: int | tuple[int, ...] | None = None,
        pretrained_windows: int | tuple[int, ...] | None = None,
        rngs: nnx.Rngs,
        **inherited,
    ):
        self.pretrained_windows = pretrained_windows or 0
        if inherited.get("positions"):
            raise UserError("Swin v2 has no positions of cells; leave the option out")
        super().__init__(
            variant, image_size or USUAL[0], window=window or USUAL[1], rngs=rngs, **inherited
        )
        self.taps = self.taps - {"attn.qkv"}  # scores are of cosines, which are computed later
        for site in self.sites:
            if site.has_attention and self.layers[site.index].attn.windows.size == min(site.grid):
                check_shift(site.grid)

    def make_block(
        self, stage: int, dim: int, heads: int, windows: Windows, **options: Any
    ) -> nnx.Module:
        """Return a block of a stage; see `SwinBlock` for the options."""
        given = self.pretrained_windows
        pretrained = given if isinstance(given, int) else given[stage]
        return _Block(dim, heads, windows, pretrained or windows.size, **options)

    def make_merging(self, dim: int, *, rngs: nnx.Rngs) -> nnx.Module:
        """Return what joins four neighbours `dim` wide to one of twice the width."""
        return _Merging(dim, rngs=rngs)


def check_shift(grid: tuple[int, int]) -> None:
    """Check a grid that is as high or as wide as its windows.

    Raises: UserError if there are windows side by side, which some libraries shift and some do not.
    """
    if grid[0] != grid[1]:
        raise UserError(
            f"Swin v2: windows are as {'high' if grid[0] < grid[1] else 'wide'} as a grid of "
            f"{grid[0]}x{grid[1]} cells, and libraries disagree on whether they are shifted then. "
            "Choose a square image_size, or one whose smallest grid is larger than a window."
        )


class _Block(SwinBlock):
    """A block whose norms follow attention and MLP."""

    def __init__(
        self,
        dim: int,
        heads: int,
        windows: Windows,
        pretrained: int,
        *,
        qkv_bias: bool,
        match_reference_code: bool,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        super().__init__(
            dim,
            heads,
            windows,
            qkv_bias=qkv_bias,
            match_reference_code=match_reference_code,
            rngs=rngs,
            **options,
        )
        self.attn = CosineAttention(
            dim, heads, windows, match_reference_code, pretrained, qkv_bias=qkv_bias, rngs=rngs
        )

    def __call__(
        self,
        tokens: Tokens,
        ctx: Context,
        extra_kv: Float[Array, "... P D"] | None = None,
        num_outputs: int | None = None,
    ) -> Tokens:
        x = tokens.x
        extra_kv = None if extra_kv is None else extra_kv.astype(x.dtype)
        y = ctx.tap("attn", self.attn(x, ctx, extra_kv, num_outputs), x)
        y = ctx.tap("norm1", self.norm1(y), y)
        tokens = tokens.first(num_outputs)
        x = tokens.x + ctx.drop_path(y, self.drop_path, "attn")
        x = ctx.tap("attn.residual", x, tokens.x)
        y = ctx.tap("mlp", self.mlp(x, ctx), x)
        y = ctx.tap("norm2", self.norm2(y), y)
        x = ctx.tap("mlp.residual", x + ctx.drop_path(y, self.drop_path, "mlp"), x)
        return Tokens(x, tokens.num_prefix_tokens, tokens.grid)


class CosineAttention(WindowAttention):
    """Attention in windows by the cosine of query and key; keys have no bias."""

    def __init__(
        self,
        dim: int,
        heads: int,
        windows: Windows,
        match_reference_code: bool,
        pretrained: int,
        *,
        qkv_bias: bool,
        rngs: nnx.Rngs,
    ):
        super().__init__(dim, heads, windows, match_reference_code, qkv_bias=qkv_bias, rngs=rngs)
        self.relative_position_bias_table = None
        self.key = Dense((dim,), (heads, dim // heads), bias=False, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.full(heads, math.log(10.0), jnp.float32))
        self.offset_mlp = _OffsetMlp(heads, rngs=rngs)
        self.pretrained = pretrained

    def mix(
        self,
        q: Float[Array, "B L N d"],
        k: Float[Array, "B S N d"],
        v: Float[Array, "B S N d"],
    ) -> Float[Array, "B L N d"]:
        return super().mix(*self.comparable(q, k), v)

    def comparable(
        self, q: Float[Array, "A L N d"], k: Float[Array, "B S N d"]
    ) -> tuple[Float[Array, "A L N d"], Float[Array, "B S N d"]]:
        """Return queries and keys whose dot products by sqrt(d) are the scores."""
        scale = jnp.exp(jnp.minimum(self.logit_scale[...], HIGHEST)) * q.shape[-1] ** 0.5
        return (_unit(q) * scale[:, None]).astype(q.dtype), _unit(k).astype(k.dtype)

    def table(self) -> Float[Array, "R N"]:
        """Return the bias of every offset between two cells of a window."""
        span = self.windows.size - 1
        offsets = np.arange(-span, span + 1) / max(self.pretrained - 1, 1) * SPAN
        offsets = np.sign(offsets) * np.log2(np.abs(offsets) + 1) / np.log2(SPAN)
        rows, columns = np.meshgrid(offsets, offsets, indexing="ij")
        pairs = jnp.asarray(np.stack([rows.ravel(), columns.ravel()], -1), jnp.float32)
        # Less by a constant than published, which softmax does not see: then a prompt, which has
        # bias 0, weighs as much as a cell about whose place the MLP says nothing.
        return STRONGEST * (jax.nn.sigmoid(self.offset_mlp(pairs)) - 0.5)


class _OffsetMlp(nnx.Module):
    """From the offset of two cells to a number a head."""

    def __init__(self, heads: int, *, rngs: nnx.Rngs):
        self.fc1 = Dense((2,), (HIDDEN,), rngs=rngs)
        self.fc2 = Dense((HIDDEN,), (heads,), bias=False, rngs=rngs)

    def __call__(self, offsets: Float[Array, "R 2"]) -> Float[Array, "R N"]:
        return self.fc2(jax.nn.relu(self.fc1(offsets)))


class _Merging(Merging):
    """Merging whose norm follows its matrix."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        super().__init__(dim, rngs=rngs)
        self.norm = LayerNorm(2 * dim, eps=EPS)

    def reduce(self, x: Float[Array, "B L C"]) -> Float[Array, "B L D"]:
        return self.norm(self.reduction(x))


def _unit(x: Float[Array, "B L N d"]) -> Float[Array, "B L N d"]:
    """Return vectors of length 1, in float32."""
    wide = x.astype(jnp.float32)
    return wide * jax.lax.rsqrt(jnp.maximum(jnp.square(wide).sum(-1, keepdims=True), 1e-24))
