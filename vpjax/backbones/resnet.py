"""ResNet: convolutions with shortcuts, and BatchNorm.

    image -> 7x7 conv, norm, relu, max pool -> 4 stages of blocks -> mean
    block:  x = relu(shortcut(x) + branch(x))

    basic       3x3, 3x3              ResNet-18, 34
    bottleneck  1x1, 3x3, 1x1         ResNet-50, 101, 152; the 3x3 has the stride ("v1.5")

He et al. 2016, arXiv 1512.03385, in torchvision's form. For small images, `stem="cifar"` is a 3x3
convolution at full resolution without pooling. Wide ResNets (arXiv 1605.07146) have wider
bottlenecks, ResNeXt (arXiv 1611.05431) has bottlenecks whose 3x3 is in groups.
"""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone, Site, Stem
from vpjax.core.errors import UserError, unknown
from vpjax.core.size import pair
from vpjax.nn.context import Context
from vpjax.nn.conv import BatchNorm, Conv, global_mean, last_stages, max_pool, to_map, to_tokens
from vpjax.nn.tokens import Tokens

# variant: blocks of each stage
DEPTHS = {
    "18": (2, 2, 2, 2),
    "34": (3, 4, 6, 3),
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
}
BASIC = ("18", "34")
# stem: window, stride, whether a max pool follows
USUAL = "50", 224, "imagenet", (64, 128, 256, 512)
STEMS = {"imagenet": (7, 2, True), "cifar": (3, 1, False)}


class ResNet(Backbone):
    """A ResNet; features are as wide as the output of its last stage.

    What is None is the weights' if they say it, see `vpjax.weights.resnet`.

    Args:
        variant: number of layers, a key of `DEPTHS`: "18", "34", "50", "101" or "152"; None: "50".
        image_size: an edge or (height, width), pixels; None: 224.
        stem: "imagenet", or "cifar" for small images; None: "imagenet".
        stem_dim: channels of the first convolution; None: those of the first stage.
        widths: channels inside the blocks of each stage; None: 64, 128, 256 and 512.
        depths: number of blocks of each stage; None: the variant's.
        expansion: channels that leave a block, as a multiple of its width; None: 1 for basic
            blocks, 4 for bottlenecks.
        groups: of the 3x3 convolutions of bottlenecks; None: 1.
        first_stride: stride of the first stage; None: 1.
        stride_at: which convolution of a bottleneck has the stride, "3x3" or "1x1" (the first one);
            None: "3x3".
        channels: channels of images: 3, or 1 for grey ones.

    Raises:
        UserError: for an unknown variant or stem, or lists of different length.
    """

    batch_norm = True

    def __init__(
        self,
        variant: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        *,
        stem: str | None = None,
        stem_dim: int | None = None,
        widths: tuple[int, ...] | None = None,
        depths: tuple[int, ...] | None = None,
        expansion: int | None = None,
        groups: int | None = None,
        first_stride: int | None = None,
        stride_at: str | None = None,
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        variant, image_size, stem, widths = (
            given or usual
            for given, usual in zip((variant, image_size, stem, widths), USUAL, strict=True)
        )
        groups, stride_at = groups or 1, stride_at or "3x3"
        if variant not in DEPTHS:
            raise unknown("ResNet variant", variant, DEPTHS)
        if stem not in STEMS:
            raise unknown("ResNet stem", stem, STEMS)
        if stride_at not in ("3x3", "1x1"):
            raise unknown("ResNet stride_at", stride_at, ("3x3", "1x1"))
        if variant in BASIC and (groups, stride_at) != (1, "3x3"):
            raise UserError("groups and stride_at are of bottlenecks; ResNet-18 and 34 have none")
        depths = depths or DEPTHS[variant]
        if len(widths) != len(depths):
            raise UserError(f"widths {tuple(widths)} and depths {tuple(depths)} differ in length")
        block = _Basic if variant in BASIC else _Bottleneck
        inside = {} if variant in BASIC else {"groups": groups, "stride_at": stride_at}
        window, stride, self.pools = STEMS[stem]
        dim = stem_dim or widths[0]
        self.image_size = pair(image_size)
        self.patch_size = pair(stride * (2 if self.pools else 1))
        self.grid = _after(self.image_size, self.patch_size[0])
        params = r"patch_(embed|norm)/.*"
        self.stem = Stem(pair(window), pair(stride), window // 2, dim, params, channels)
        self.taps = block.taps | {"stem", "embed", "branch", "downsample"}

        self.patch_embed = Conv(channels, dim, window, stride=stride, rngs=rngs)
        self.patch_norm = BatchNorm(dim)
        self.layers, sites, grid = nnx.List(), [], self.grid
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            outer = width * (expansion or block.expansion)
            for i in range(depth):
                stride = 1 if i else 2 if stage else first_stride or 1
                sites.append(Site(len(sites), stage, dim, grid, has_attention=False))
                self.layers.append(block(dim, width, outer, stride, **inside, rngs=rngs))
                dim, grid = outer, _after(grid, stride)
        self.sites, self.dim = tuple(sites), dim

    @classmethod
    def options_of_variant(cls, variant: str) -> dict[str, Any]:
        """Return the depths of a variant.

        Raises: UserError for an unknown variant.
        """
        if variant not in DEPTHS:
            raise unknown("ResNet variant", variant, DEPTHS)
        return {"depths": DEPTHS[variant]}

    def patchify(self, images: Float[Array, "B H W C"], ctx: Context) -> Float[Array, "B h w D"]:
        """Apply the stem: convolution, norm, relu and, where it has one, max pooling."""
        x = ctx.tap("stem", self.patch_embed(images), images)
        x = jax.nn.relu(self.patch_norm(x, ctx))
        return max_pool(x) if self.pools else x

    def add_positions(self, patches: Float[Array, "B h w D"], ctx: Context) -> Tokens:
        """Return the feature map as tokens; convolutions need no positions."""
        return to_tokens(patches)

    def pool(self, tokens: Tokens, over: slice | None = None) -> Float[Array, "B D"]:
        """Return the mean of the feature map.

        Raises: UserError if `over` is given.
        """
        return global_mean(tokens, over)

    def partial(self, k: int) -> str:
        """Return the last k stages, or for 0 the last block; there is no last norm."""
        return last_stages(k, [site.stage for site in self.sites])


class _Block(nnx.Module):
    """x = relu(shortcut(x) + branch(x)); the shortcut is projected where the shape changes."""

    def __init__(self, channels: int, dim: int, stride: int, *, rngs: nnx.Rngs):
        changes = stride > 1 or channels != dim
        self.downsample = _Projection(channels, dim, stride, rngs=rngs) if changes else None

    def __call__(
        self,
        tokens: Tokens,
        ctx: Context,
        extra_kv: Array | None = None,
        num_outputs: int | None = None,
    ) -> Tokens:
        x = to_map(tokens, extra_kv)
        y = ctx.tap("branch", self.branch(x, ctx), x)
        if self.downsample is not None:
            x = self.downsample(x, ctx)
        return to_tokens(jax.nn.relu(x + y)).first(num_outputs)


class _Basic(_Block):
    """3x3 with the stride, 3x3."""

    expansion = 1
    taps = frozenset({"conv1", "conv2"})

    def __init__(self, channels: int, width: int, dim: int, stride: int, *, rngs: nnx.Rngs):
        super().__init__(channels, dim, stride, rngs=rngs)
        self.conv1 = Conv(channels, width, 3, stride=stride, rngs=rngs)
        self.norm1 = BatchNorm(width)
        self.conv2 = Conv(width, dim, 3, rngs=rngs)
        self.norm2 = BatchNorm(dim)

    def branch(self, x: Float[Array, "B H W C"], ctx: Context) -> Float[Array, "B h w D"]:
        y = jax.nn.relu(self.norm1(ctx.tap("conv1", self.conv1(x), x), ctx))
        return self.norm2(ctx.tap("conv2", self.conv2(y), y), ctx)


class _Bottleneck(_Block):
    """1x1 to the inner width, 3x3, 1x1 to the outer width; one of the first two has the stride."""

    expansion = 4
    taps = frozenset({"conv1", "conv2", "conv3"})

    def __init__(
        self,
        channels: int,
        width: int,
        dim: int,
        stride: int,
        *,
        groups: int,
        stride_at: str,
        rngs: nnx.Rngs,
    ):
        super().__init__(channels, dim, stride, rngs=rngs)
        first, second = (stride, 1) if stride_at == "1x1" else (1, stride)
        self.conv1 = Conv(channels, width, 1, stride=first, rngs=rngs)
        self.norm1 = BatchNorm(width)
        self.conv2 = Conv(width, width, 3, stride=second, groups=groups, rngs=rngs)
        self.norm2 = BatchNorm(width)
        self.conv3 = Conv(width, dim, 1, rngs=rngs)
        self.norm3 = BatchNorm(dim)

    def branch(self, x: Float[Array, "B H W C"], ctx: Context) -> Float[Array, "B h w D"]:
        y = jax.nn.relu(self.norm1(ctx.tap("conv1", self.conv1(x), x), ctx))
        y = jax.nn.relu(self.norm2(ctx.tap("conv2", self.conv2(y), y), ctx))
        return self.norm3(ctx.tap("conv3", self.conv3(y), y), ctx)


class _Projection(nnx.Module):
    """The shortcut where width or resolution changes: a 1x1 convolution with the stride, norm."""

    def __init__(self, channels: int, dim: int, stride: int, *, rngs: nnx.Rngs):
        self.conv = Conv(channels, dim, 1, stride=stride, rngs=rngs)
        self.norm = BatchNorm(dim)

    def __call__(self, x: Float[Array, "B H W C"], ctx: Context) -> Float[Array, "B h w D"]:
        return self.norm(ctx.tap("downsample", self.conv(x), x), ctx)


def _after(grid: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-grid[0] // stride), -(-grid[1] // stride)
