"""A Vision Transformer over the feature map of a ResNet, "R50+ViT".

    image -> 7x7 conv, norm, relu, max pool -> stages of bottlenecks -> patches -> ViT

Dosovitskiy et al. 2021, arXiv 2010.11929, and Steiner et al. 2021, arXiv 2106.10270. The ResNet has
standardised kernels, group normalisation and TensorFlow's padding ("same"). Names and options of
everything after it are those of `vpjax.backbones.vit`.
"""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Stem
from vpjax.backbones.vit import ViT
from vpjax.core.errors import UserError
from vpjax.nn.context import Context
from vpjax.nn.layers import PatchEmbed
from vpjax.nn.standardised import GroupNorm, StdConv, max_pool

WIDTHS = (64, 128, 256, 512)
USUAL = (3, 4, 9)  # of B/16, whose ResNet-50 has the blocks of its last stage in the third
EXPANSION = 4
WINDOW = (7, 7)


class Hybrid(ViT):
    """A ResNet and a ViT over its feature map.

    Args:
        patch_size: pixels of a cell of the transformer's grid, a multiple of the ResNet's stride;
            None: that stride.
        stage_depths: blocks of each stage of the ResNet; (): none; None: 3, 4, 9.
        stage_widths: channels inside these blocks; None: 64, 128, 256, 512.
        stem_dim: channels of the first convolution; None: 64.
        groups: of channels that are normalised together; None: 32.
        group_eps: of group normalisation; None: 1e-6, as in Google's program.
        var_eps: added to the variance of kernels; None: 0.
        std_eps: added to the standard deviation of kernels; None: 1e-5.
        inherited: the options of `vpjax.backbones.vit.ViT`.

    Raises:
        UserError: for sizes or options that do not fit together.
    """

    def __init__(
        self,
        variant: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        *,
        patch_size: int | None = None,
        stage_depths: tuple[int, ...] | None = None,
        stage_widths: tuple[int, ...] | None = None,
        stem_dim: int | None = None,
        groups: int | None = None,
        group_eps: float | None = None,
        var_eps: float | None = None,
        std_eps: float | None = None,
        channels: int = 3,
        rngs: nnx.Rngs,
        **inherited,
    ):
        depths = USUAL if stage_depths is None else tuple(stage_depths)
        widths = tuple(stage_widths or WIDTHS[: len(depths)])
        if len(widths) != len(depths):
            raise UserError(f"stage_widths {widths} and stage_depths {depths} differ in length")
        stride = 4 << max(len(depths) - 1, 0)
        patch_size = patch_size or stride
        if patch_size % stride:
            raise UserError(f"patch_size {patch_size} is no multiple of the ResNet's {stride}")
        super().__init__(
            variant, image_size, patch_size=patch_size, channels=channels, rngs=rngs, **inherited
        )
        norm = {"groups": groups or 32, "eps": 1e-6 if group_eps is None else group_eps}
        conv = {
            "padding": "same",
            "var_eps": var_eps or 0.0,
            "std_eps": 1e-5 if std_eps is None else std_eps,
        }
        dim, bias = self.sites[0].dim, self.patch_embed.bias is not None
        stem = stem_dim or WIDTHS[0]
        self.stem = Stem(
            WINDOW, (2, 2), WINDOW[0] // 2, stem, r"patch_embed/(conv|norm)/.*", channels
        )
        self.taps = self.taps | {"branch", "downsample", "conv1", "conv2", "conv3"}
        self.patch_embed = _Root(
            channels, stem, tuple(zip(widths, depths, strict=True)), norm, conv, rngs=rngs
        )
        inner = EXPANSION * widths[-1] if widths else stem
        edge = patch_size // stride
        self.patch_project = PatchEmbed((edge, edge), dim, channels=inner, bias=bias, rngs=rngs)

    def patchify(self, images: Float[Array, "B H W C"], ctx: Context) -> Float[Array, "B h w D"]:
        """Apply the ResNet and project its feature map."""
        return self.patch_project(self.patch_embed(images, ctx))


class _Root(nnx.Module):
    """The ResNet: B H W C -> B h w D."""

    def __init__(
        self,
        channels: int,
        dim: int,
        stages: tuple[tuple[int, int], ...],
        norm: dict[str, Any],
        conv: dict[str, Any],
        *,
        rngs: nnx.Rngs,
    ):
        self.conv = StdConv(channels, dim, WINDOW[0], stride=2, **conv, rngs=rngs)
        self.norm = GroupNorm(dim, **norm)
        self.blocks = nnx.List()
        for stage, (width, depth) in enumerate(stages):
            for i in range(depth):
                stride = 2 if stage and not i else 1
                self.blocks.append(_Block(dim, width, stride, not i, norm, conv, rngs=rngs))
                dim = EXPANSION * width

    def __call__(self, images: Float[Array, "B H W C"], ctx: Context) -> Float[Array, "B h w D"]:
        x = ctx.tap("stem", self.conv(images), images)
        x = max_pool(jax.nn.relu(self.norm(x)), "same")
        for block in self.blocks:
            x = block(x, ctx)
        return x


class _Block(nnx.Module):
    """A bottleneck with group normalisation; the first one of a stage projects its shortcut."""

    def __init__(
        self,
        channels: int,
        width: int,
        stride: int,
        projects: bool,
        norm: dict[str, Any],
        conv: dict[str, Any],
        *,
        rngs: nnx.Rngs,
    ):
        dim = EXPANSION * width
        make = lambda *sizes, **more: StdConv(*sizes, **(conv | more), rngs=rngs)  # noqa: E731
        self.downsample = make(channels, dim, 1, stride=stride) if projects else None
        self.downsample_norm = GroupNorm(dim, **norm) if projects else None
        self.conv1, self.norm1 = make(channels, width, 1), GroupNorm(width, **norm)
        self.conv2, self.norm2 = make(width, width, 3, stride=stride), GroupNorm(width, **norm)
        self.conv3, self.norm3 = make(width, dim, 1), GroupNorm(dim, **norm)

    def __call__(self, x: Float[Array, "B H W C"], ctx: Context) -> Float[Array, "B h w D"]:
        y = ctx.tap("branch", self.branch(x, ctx), x)
        if self.downsample is not None:
            x = self.downsample_norm(ctx.tap("downsample", self.downsample(x), x))
        return jax.nn.relu(x + y)

    def branch(self, x: Float[Array, "B H W C"], ctx: Context) -> Float[Array, "B h w D"]:
        y = jax.nn.relu(self.norm1(ctx.tap("conv1", self.conv1(x), x)))
        y = jax.nn.relu(self.norm2(ctx.tap("conv2", self.conv2(y), y)))
        return self.norm3(ctx.tap("conv3", self.conv3(y), y))
