"""Big Transfer's ResNet: norms before convolutions, groups instead of batches.

    image -> 7x7 conv, max pool -> 4 stages of blocks -> norm, relu -> mean
    block:  y = relu(norm1(x));  x = shortcut(y) + conv3(relu(norm3(conv2(relu(norm2(conv1(y)))))))

Kolesnikov et al. 2020, arXiv 1912.11370: pre-activation bottlenecks (arXiv 1603.05027) with group
normalisation and standardised kernels. Widths are multiples of those of a ResNet, "50x3" is three
times as wide. The first block of every stage projects its shortcut.
"""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone, Site, Stem
from vpjax.core.errors import UserError, unknown
from vpjax.core.size import pair
from vpjax.nn.context import Context
from vpjax.nn.conv import global_mean, last_stages, to_map, to_tokens
from vpjax.nn.standardised import GroupNorm, StdConv, max_pool
from vpjax.nn.tokens import Tokens

DEPTHS = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}
VARIANTS = ("50x1", "50x3", "101x1", "101x3", "152x2", "152x4")
WIDTHS = (64, 128, 256, 512)
USUAL = "50x1", 224
EXPANSION = 4


class BiT(Backbone):
    """A Big Transfer ResNet; features are as wide as the output of its last stage.

    What is None is the weights' if they say it, see `vpjax.weights.bit`.

    Args:
        variant: layers and multiple of the width, one of `VARIANTS`; None: "50x1".
        image_size: an edge or (height, width), pixels; None: 224.
        widths: channels inside the blocks of each stage; None: the variant's.
        depths: number of blocks of each stage; None: the variant's.
        stem_dim: channels of the first convolution; None: those of the first stage.
        groups: of channels that are normalised together; None: 32.
        channels: channels of images: 3, or 1 for grey ones.

    Raises:
        UserError: for an unknown variant, or lists of different length.
    """

    def __init__(
        self,
        variant: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        *,
        widths: tuple[int, ...] | None = None,
        depths: tuple[int, ...] | None = None,
        stem_dim: int | None = None,
        groups: int | None = None,
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        usual = self.options_of_variant(variant or USUAL[0])
        widths, depths = widths or usual["widths"], depths or usual["depths"]
        if len(widths) != len(depths):
            raise UserError(f"widths {tuple(widths)} and depths {tuple(depths)} differ in length")
        dim, groups = stem_dim or widths[0], groups or 32
        self.image_size, self.patch_size = pair(image_size or USUAL[1]), (4, 4)
        self.grid = _after(_after(self.image_size, 2), 2)
        self.stem = Stem((7, 7), (2, 2), 3, dim, channels=channels)
        self.taps = frozenset({"stem", "embed", "branch", "downsample", "conv1", "conv2", "conv3"})
        self.patch_embed = StdConv(channels, dim, 7, stride=2, rngs=rngs)
        self.layers, sites, grid = nnx.List(), [], self.grid
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for i in range(depth):
                stride = 2 if stage and not i else 1
                sites.append(Site(len(sites), stage, dim, grid, has_attention=False))
                self.layers.append(_Block(dim, width, stride, not i, groups, rngs=rngs))
                dim, grid = EXPANSION * width, _after(grid, stride)
        self.sites, self.dim = tuple(sites), dim
        self.norm = GroupNorm(dim, groups=groups)

    @classmethod
    def options_of_variant(cls, variant: str) -> dict[str, Any]:
        """Return widths and depths of a variant.

        Raises: UserError for an unknown variant.
        """
        if variant not in VARIANTS:
            raise unknown("BiT variant", variant, VARIANTS)
        layers, _, factor = variant.partition("x")
        return {"widths": tuple(int(factor) * w for w in WIDTHS), "depths": DEPTHS[layers]}

    def patchify(self, images: Float[Array, "B H W C"], ctx: Context) -> Float[Array, "B h w D"]:
        """Apply the stem: convolution and max pooling."""
        return max_pool(ctx.tap("stem", self.patch_embed(images), images), "centred")

    def add_positions(self, patches: Float[Array, "B h w D"], ctx: Context) -> Tokens:
        """Return the feature map as tokens; convolutions need no positions."""
        return to_tokens(patches)

    def pool(self, tokens: Tokens, over: slice | None = None) -> Float[Array, "B D"]:
        """Return the mean of the normalised feature map.

        Raises: UserError if `over` is given.
        """
        return global_mean(to_tokens(jax.nn.relu(self.norm(to_map(tokens)))), over)

    def partial(self, k: int) -> str:
        """Return the last k stages, or for 0 the last block, and the last norm."""
        return f"{last_stages(k, [site.stage for site in self.sites])}|norm/.*"


class _Block(nnx.Module):
    """1x1 to the inner width, 3x3 with the stride, 1x1 to the outer width; norms come before."""

    def __init__(
        self,
        channels: int,
        width: int,
        stride: int,
        projects: bool,
        groups: int,
        *,
        rngs: nnx.Rngs,
    ):
        dim = EXPANSION * width
        self.downsample = StdConv(channels, dim, 1, stride=stride, rngs=rngs) if projects else None
        self.norm1 = GroupNorm(channels, groups=groups)
        self.conv1 = StdConv(channels, width, 1, rngs=rngs)
        self.norm2 = GroupNorm(width, groups=groups)
        self.conv2 = StdConv(width, width, 3, stride=stride, rngs=rngs)
        self.norm3 = GroupNorm(width, groups=groups)
        self.conv3 = StdConv(width, dim, 1, rngs=rngs)

    def __call__(
        self,
        tokens: Tokens,
        ctx: Context,
        extra_kv: Array | None = None,
        num_outputs: int | None = None,
    ) -> Tokens:
        x = to_map(tokens, extra_kv)
        y = jax.nn.relu(self.norm1(x))
        if self.downsample is not None:
            x = ctx.tap("downsample", self.downsample(y), y)
        y = ctx.tap("branch", self.branch(y, ctx), y)
        return to_tokens(x + y).first(num_outputs)

    def branch(self, x: Float[Array, "B H W C"], ctx: Context) -> Float[Array, "B h w D"]:
        y = jax.nn.relu(self.norm2(ctx.tap("conv1", self.conv1(x), x)))
        y = jax.nn.relu(self.norm3(ctx.tap("conv2", self.conv2(y), y)))
        return ctx.tap("conv3", self.conv3(y), y)


def _after(grid: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-grid[0] // stride), -(-grid[1] // stride)
