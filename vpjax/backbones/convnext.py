"""ConvNeXt: a convolutional network with the proportions of a transformer.

    image -> 4x4 patches, norm -> 4 stages of blocks, halved in between -> mean -> norm
    block:  x = x + gamma * mlp(norm(depthwise 7x7 conv(x)))

Liu et al. 2022, arXiv 2201.03545. Downsampling between two stages, a norm and 2x2 patches, is a
layer and belongs to the later stage.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone, Site, Stem
from vpjax.core.errors import UserError, unknown
from vpjax.core.size import pair
from vpjax.nn.context import Context
from vpjax.nn.conv import Conv, global_mean, last_stages, to_map, to_tokens
from vpjax.nn.layers import LayerNorm, Mlp, PatchEmbed
from vpjax.nn.tokens import Tokens

# size: width and blocks of each stage
SIZES = {
    "T": ((96, 192, 384, 768), (3, 3, 9, 3)),
    "S": ((96, 192, 384, 768), (3, 3, 27, 3)),
    "B": ((128, 256, 512, 1024), (3, 3, 27, 3)),
    "L": ((192, 384, 768, 1536), (3, 3, 27, 3)),
    "XL": ((256, 512, 1024, 2048), (3, 3, 27, 3)),
}
PATCH = (4, 4)
TAPS = frozenset({"stem", "embed", "mlp.fc1", "mlp.fc2", "mlp"})


class ConvNeXt(Backbone):
    """A ConvNeXt; features are as wide as its last stage.

    Args:
        variant: a size of `SIZES`: "T", "S", "B", "L" or "XL".
        image_size: an edge or (height, width), pixels.
        dims: width of each stage; None: the variant's.
        depths: number of blocks of each stage; None: the variant's.
        drop_path: probability with which the last block is skipped, rising linearly from 0 at the
            first; it acts only while the backbone trains.
        layer_scale: initial value of gamma.

    Raises:
        UserError: for an unknown variant, or sizes that do not fit together.
    """

    def __init__(
        self,
        variant: str = "B",
        image_size: int | tuple[int, int] = 224,
        *,
        dims: tuple[int, ...] | None = None,
        depths: tuple[int, ...] | None = None,
        drop_path: float = 0.0,
        layer_scale: float = 1e-6,
        rngs: nnx.Rngs,
    ):
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
        self.dim, self.taps = dims[-1], TAPS
        self.stem = Stem(PATCH, PATCH, 0, dims[0])

        self.patch_embed = PatchEmbed(PATCH, dims[0], rngs=rngs)
        self.patch_norm = LayerNorm(dims[0])
        rates = iter(np.linspace(0, drop_path, sum(depths)).tolist())
        self.layers, sites, dim, grid = nnx.List(), [], dims[0], self.grid
        for stage, (width, depth) in enumerate(zip(dims, depths, strict=True)):
            if stage:
                sites.append(Site(len(sites), stage, dim, grid, has_attention=False))
                self.layers.append(_Downsample(dim, width, rngs=rngs))
                dim, grid = width, (grid[0] // 2, grid[1] // 2)
            for _ in range(depth):
                sites.append(Site(len(sites), stage, dim, grid, has_attention=False))
                self.layers.append(_Block(dim, next(rates), layer_scale, rngs=rngs))
        self.sites = tuple(sites)
        self.norm = LayerNorm(dim)

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
        return self.norm(global_mean(tokens, over))

    def partial(self, k: int) -> str:
        """Return the last k stages with their downsampling, or for 0 the last block; and norm.

        VPT's published code has 0 only.
        """
        return f"{last_stages(k, [site.stage for site in self.sites])}|norm/.*"


class _Block(nnx.Module):
    """x + gamma * mlp(norm(depthwise 7x7 conv(x)))."""

    def __init__(self, dim: int, drop_path: float, layer_scale: float, *, rngs: nnx.Rngs):
        self.conv = Conv(dim, dim, 7, groups=dim, bias=True, rngs=rngs)
        self.norm = LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim, rngs=rngs)
        self.gamma = nnx.Param(jnp.full(dim, layer_scale, jnp.float32))
        self.drop_path = drop_path

    def __call__(
        self,
        tokens: Tokens,
        ctx: Context,
        extra_kv: Array | None = None,
        num_outputs: int | None = None,
    ) -> Tokens:
        x = self.norm(to_tokens(self.conv(to_map(tokens, extra_kv))).x)  # B (h w) D
        y = self.mlp(x, ctx) * self.gamma[...].astype(x.dtype)
        y = ctx.drop_path(ctx.tap("mlp", y, x), self.drop_path, "mlp")
        return Tokens(tokens.x + y, tokens.num_prefix_tokens, tokens.grid).first(num_outputs)


class _Downsample(nnx.Module):
    """Norm, then projected patches of 2 x 2 cells; an odd last row or column is dropped."""

    def __init__(self, channels: int, dim: int, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(channels)
        self.conv = PatchEmbed((2, 2), dim, channels=channels, rngs=rngs)

    def __call__(
        self,
        tokens: Tokens,
        ctx: Context,
        extra_kv: Array | None = None,
        num_outputs: int | None = None,
    ) -> Tokens:
        return to_tokens(self.conv(self.norm(to_map(tokens, extra_kv)))).first(num_outputs)
