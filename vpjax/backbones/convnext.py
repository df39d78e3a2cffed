"""ConvNeXt: a convolutional network with the proportions of a transformer.

    image -> 4x4 patches, norm -> 4 stages of blocks, halved in between -> mean -> norm
    block:  x = x + gamma * mlp(norm(depthwise 7x7 conv(x)))

Liu et al. 2022, arXiv 2201.03545. Downsampling between two stages, a norm and 2x2 patches, is a
layer and belongs to the later stage. Version 2 normalises channels inside the MLP by their response
over the whole image (`grn`) and has no gamma: Woo et al. 2023, arXiv 2301.00808.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone, Site, Stem
from vpjax.core.errors import UserError, unknown
from vpjax.core.size import pair
from vpjax.nn.activations import ACTIVATIONS, gelu
from vpjax.nn.context import Context
from vpjax.nn.conv import Conv, global_mean, last_stages, to_map, to_tokens
from vpjax.nn.layers import Dense, LayerNorm, Mlp, PatchEmbed
from vpjax.nn.tokens import Tokens

# size: width and blocks of each stage
SIZES = {
    "A": ((40, 80, 160, 320), (2, 2, 6, 2)),
    "F": ((48, 96, 192, 384), (2, 2, 6, 2)),
    "P": ((64, 128, 256, 512), (2, 2, 6, 2)),
    "N": ((80, 160, 320, 640), (2, 2, 8, 2)),
    "T": ((96, 192, 384, 768), (3, 3, 9, 3)),
    "S": ((96, 192, 384, 768), (3, 3, 27, 3)),
    "B": ((128, 256, 512, 1024), (3, 3, 27, 3)),
    "L": ((192, 384, 768, 1536), (3, 3, 27, 3)),
    "XL": ((256, 512, 1024, 2048), (3, 3, 27, 3)),
    "XXL": ((384, 768, 1536, 3072), (3, 4, 30, 3)),
    "H": ((352, 704, 1408, 2816), (3, 3, 27, 3)),
}
USUAL = "B", 224
EPS = 1e-6
PATCH = (4, 4)
TAPS = frozenset({"stem", "embed", "mlp.fc1", "mlp.fc2", "mlp", "mlp.residual"})


class ConvNeXt(Backbone):
    """A ConvNeXt; features are as wide as its last stage, or as `pre_logits`.

    What is None is the weights' if they say it, see `vpjax.weights.convnext`.

    Args:
        variant: a size of `SIZES`: "A" (atto), "F", "P", "N", "T", "S", "B", "L", "XL", "XXL" or
            "H"; None: "B".
        image_size: an edge or (height, width), pixels; None: 224.
        dims: width of each stage; None: the variant's.
        depths: number of blocks of each stage; None: the variant's.
        drop_path: probability with which the last block is skipped, rising linearly from 0 at the
            first; it acts only while the backbone trains.
        layer_scale: initial value of gamma; 0: there is no gamma; None: 1e-6, or 0 with `grn`.
        grn: whether MLPs have global response normalisation (version 2); None: no.
        channels: channels of images: 3, or 1 for grey ones.
        eps: of all norms; None: 1e-6.
        pool_eps: of the last norm; None: `eps`.
        norm_first: whether the last norm comes before pooling; None: after.
        activation: of MLPs, a name of `vpjax.nn.activations.ACTIVATIONS`; None: "gelu".
        pre_logits: width of a dense layer with gelu that follows the last norm; None: there is
            none.

    Raises:
        UserError: for an unknown variant, or sizes that do not fit together.
    """

    def __init__(
        self,
        variant: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        *,
        dims: tuple[int, ...] | None = None,
        depths: tuple[int, ...] | None = None,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        grn: bool | None = None,
        channels: int = 3,
        eps: float | None = None,
        pool_eps: float | None = None,
        norm_first: bool | None = None,
        activation: str | None = None,
        pre_logits: int | None = None,
        rngs: nnx.Rngs,
    ):
        variant, image_size = variant or USUAL[0], image_size or USUAL[1]
        if variant not in SIZES:
            raise unknown("ConvNeXt variant", variant, SIZES)
        dims, depths = dims or SIZES[variant][0], depths or SIZES[variant][1]
        if len(dims) != len(depths):
            raise UserError(f"dims {tuple(dims)} and depths {tuple(depths)} differ in length")
        self.image_size, self.patch_size = pair(image_size), PATCH
        self.grid = tuple(edge // p for edge, p in zip(self.image_size, PATCH, strict=True))
        least = PATCH[0] * 2 ** (len(dims) - 1)
        if min(self.image_size) < least:
            raise UserError(
                f"image_size {self.image_size} is too small for ConvNeXt of {len(dims)} stages: "
                f"give at least {least} pixels, or fewer stages by dims and depths"
            )
        self.dim, self.taps = pre_logits or dims[-1], TAPS
        eps = eps or EPS
        self.stem = Stem(PATCH, PATCH, 0, dims[0], channels=channels)
        if layer_scale is None:
            layer_scale = 0.0 if grn else 1e-6

        self.patch_embed = PatchEmbed(PATCH, dims[0], channels=channels, rngs=rngs)
        self.patch_norm = LayerNorm(dims[0], eps=eps)
        rates = iter(np.linspace(0, drop_path, sum(depths)).tolist())
        self.layers, sites, dim, grid = nnx.List(), [], dims[0], self.grid
        for stage, (width, depth) in enumerate(zip(dims, depths, strict=True)):
            if stage:
                sites.append(Site(len(sites), stage, dim, grid, has_attention=False))
                self.layers.append(_Downsample(dim, width, eps, rngs=rngs))
                dim, grid = width, (grid[0] // 2, grid[1] // 2)
            for _ in range(depth):
                sites.append(Site(len(sites), stage, dim, grid, has_attention=False))
                mlp = _Mlp if grn else Mlp
                mlp = mlp(dim, 4 * dim, activation=activation or "gelu", rngs=rngs)
                self.layers.append(_Block(dim, mlp, next(rates), layer_scale, eps, rngs=rngs))
        self.sites = tuple(sites)
        self.norm, self.norm_first = LayerNorm(dim, eps=pool_eps or eps), bool(norm_first)
        self.pre_logits = Dense((dim,), (pre_logits,), rngs=rngs) if pre_logits else None

    @classmethod
    def options_of_variant(cls, variant: str) -> dict[str, Any]:
        """Return widths and depths of a variant.

        Raises: UserError for an unknown variant.
        """
        if variant not in SIZES:
            raise unknown("ConvNeXt variant", variant, SIZES)
        return dict(zip(("dims", "depths"), SIZES[variant], strict=True))

    def patchify(self, images: Float[Array, "B H W C"], ctx: Context) -> Float[Array, "B h w D"]:
        """Project the patches of images."""
        return ctx.tap("stem", self.patch_embed(images), images)

    def add_positions(self, patches: Float[Array, "B h w D"], ctx: Context) -> Tokens:
        """Return the normalised patches as tokens; convolutions need no positions."""
        return to_tokens(self.patch_norm(patches))

    def pool(self, tokens: Tokens, over: slice | None = None) -> Float[Array, "B D"]:
        """Return the mean of the feature map, normalised.

        Raises: UserError if `over` is given.
        """
        if self.norm_first:
            return global_mean(dataclasses.replace(tokens, x=self.norm(tokens.x)), over)
        x = self.norm(global_mean(tokens, over))
        return x if self.pre_logits is None else gelu(self.pre_logits(x))

    def partial(self, k: int) -> str:
        """Return the last k stages with their downsampling, or for 0 the last block; and norm.

        VPT's published code has 0 only.
        """
        return f"{last_stages(k, [site.stage for site in self.sites])}|norm/.*"


class _Block(nnx.Module):
    """x + gamma * mlp(norm(depthwise 7x7 conv(x)))."""

    def __init__(
        self,
        dim: int,
        mlp: Mlp,
        drop_path: float,
        layer_scale: float,
        eps: float,
        *,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(dim, dim, 7, groups=dim, bias=True, rngs=rngs)
        self.norm = LayerNorm(dim, eps=eps)
        self.mlp = mlp
        self.gamma = nnx.Param(jnp.full(dim, layer_scale, jnp.float32)) if layer_scale else None
        self.drop_path = drop_path

    def __call__(
        self,
        tokens: Tokens,
        ctx: Context,
        extra_kv: Array | None = None,
        num_outputs: int | None = None,
    ) -> Tokens:
        x = self.norm(to_tokens(self.conv(to_map(tokens, extra_kv))).x)  # B (h w) D
        y = self.mlp(x, ctx)
        y = y if self.gamma is None else y * self.gamma[...].astype(x.dtype)
        y = ctx.tap("mlp", ctx.drop_path(y, self.drop_path, "mlp"), x)
        x = ctx.tap("mlp.residual", tokens.x + y, tokens.x)
        return Tokens(x, tokens.num_prefix_tokens, tokens.grid).first(num_outputs)


class _Mlp(Mlp):
    """fc2(grn(activation(fc1(x)))), version 2's."""

    def __init__(self, dim: int, hidden: int, *, activation: str, rngs: nnx.Rngs):
        super().__init__(dim, hidden, activation=activation, rngs=rngs)
        self.grn = _ResponseNorm(hidden)

    def __call__(self, x: Float[Array, "B L D"], ctx: Context) -> Float[Array, "B L D"]:
        h = ACTIVATIONS[self.activation](ctx.tap("mlp.fc1", self.fc1(x), x, self.fc1))
        h = self.grn(h)
        return ctx.tap("mlp.fc2", self.fc2(h), h, self.fc2)


class _ResponseNorm(nnx.Module):
    """x + scale * x * n + bias; n is a channel's norm over all cells by the mean of channels."""

    def __init__(self, dim: int):
        self.scale = nnx.Param(jnp.zeros(dim))
        self.bias = nnx.Param(jnp.zeros(dim))

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        # A norm has no derivative at 0, where a channel that answers nowhere lies.
        square = jnp.square(x.astype(jnp.float32)).sum(1, keepdims=True)  # B 1 D
        norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        n = (norm / (norm.mean(-1, keepdims=True) + EPS)).astype(x.dtype)
        scale, bias = self.scale[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        return x + scale * (x * n) + bias


class _Downsample(nnx.Module):
    """Norm, then projected patches of 2 x 2 cells; an odd last row or column is dropped."""

    def __init__(self, channels: int, dim: int, eps: float, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(channels, eps=eps)
        self.conv = PatchEmbed((2, 2), dim, channels=channels, rngs=rngs)

    def __call__(
        self,
        tokens: Tokens,
        ctx: Context,
        extra_kv: Array | None = None,
        num_outputs: int | None = None,
    ) -> Tokens:
        return to_tokens(self.conv(self.norm(to_map(tokens, extra_kv)))).first(num_outputs)
