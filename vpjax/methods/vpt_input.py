"""Prompts in other places than among the tokens: VPT's ablation of locations.

    Add            added to the tokens: one for each token, or one vector for all (`single`)
    PrependPixel   patches of pixels, embedded by the frozen stem and inserted before the grid
    Pad            a frame of pixels around the image, which grows by it
    Below          further channels of the image, with further weights of the stem

Jia et al. 2022, arXiv 2203.12119, section "prompt location". Initial pixels (`pixel_init`):

    uniform    within the bound of token prompts
    gaussian   N(0, 1)
    imagenet   U(0, 1), normalised like an image whenever they are used
"""

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError, unknown
from vpjax.methods.base import Method
from vpjax.methods.vpt import _Prompted, prompted_sites, xavier_bound
from vpjax.nn.context import Context
from vpjax.nn.tokens import Tokens

log = logging.getLogger(__name__)

INITS = ("uniform", "gaussian", "imagenet")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet; red, green, blue


class Add(_Prompted):
    """Prompts added to the tokens before every layer, or before the first (`deep=False`).

    Args:
        single: one prompt for all tokens; False: one for each, the class token included.
        inherited: `deep`, `num_deep_layers`, `reverse_deep`, `dropout` and `projection_dim`, as for
            `vpjax.methods.vpt.VPT`.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        single: bool = False,
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        self.prompts = nnx.Dict()
        for site in backbone.sites:
            if site.index in self.at:
                count = 1 if single else backbone.num_prefix_tokens + math.prod(site.grid)
                self.prompts[str(site.index)] = nnx.Param(self.draw(backbone, count, site, rngs))

    def step(self, layer: nnx.Module, tokens: Tokens, ctx: Context) -> Tokens:
        """Apply a layer to the sum of its input and its prompts."""
        if ctx.layer in self.at:
            prompt = self.prepare(self.prompts[str(ctx.layer)][...], tokens.x.shape[0], ctx)
            tokens = dataclasses.replace(tokens, x=tokens.x + prompt.astype(tokens.x.dtype))
        return super().step(layer, tokens, ctx)


class PrependPixel(Method):
    """Prompts as patches of pixels, embedded by the frozen stem and inserted before the grid.

    Args:
        num_tokens: number of patches.
        pixel_init: how the pixels start, see above.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        num_tokens: int = 50,
        pixel_init: str = "uniform",
        rngs: nnx.Rngs,
        **inherited,
    ):
        _at_least_one(num_tokens, "patch")
        prompted_sites(backbone, False, None, False)  # refuses backbones without attention
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        height, width = backbone.stem.window
        if (height, width) != tuple(backbone.patch_size):
            raise UserError(
                f"{type(backbone).__name__} has convolutions before its tokens, so that a patch of "
                "pixels is no token. Use vpt_input.Pad or vpt_input.Below."
            )
        self.pixel_init = pixel_init
        shape = (height, width * num_tokens, backbone.stem.channels)
        self.prompts = nnx.Param(_draw(pixel_init, shape, backbone, rngs))

    def start(self, backbone: Backbone, images: Float[Array, "B H W C"], ctx: Context) -> Tokens:
        """Return the tokens with the embedded prompts inserted; they stay for all layers."""
        tokens = super().start(backbone, images, ctx)
        pixels = _normalised(self.prompts[...], self.pixel_init)
        patches = backbone.patchify(pixels[None].astype(images.dtype), ctx)  # 1 1 P D
        return tokens.insert(patches[0, 0], at=tokens.num_prefix_tokens)


class Pad(Method):
    """Prompts as a frame of pixels around the image.

    The backbone is built for the image with its frame, and position embeddings are resized to it.
    Pixels beyond the last whole patch are dropped, with a warning.

    Args:
        num_tokens: width of the frame in pixels.
        pixel_init: how the pixels start, see above.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        num_tokens: int = 16,
        pixel_init: str = "imagenet",
        rngs: nnx.Rngs,
        **inherited,
    ):
        _at_least_one(num_tokens, "pixel")
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        height, width = backbone.image_size
        self.width, self.pixel_init = num_tokens, pixel_init
        channels = backbone.stem.channels
        draw = lambda *shape: nnx.Param(_draw(pixel_init, (*shape, channels), backbone, rngs))  # noqa: E731
        self.rows = draw(2 * num_tokens, width)
        self.columns = draw(height - 2 * num_tokens, 2 * num_tokens)
        steps = backbone.stem.stride
        if backbone.stem.window == steps and (height % steps[0] or width % steps[1]):
            log.warning(
                "Pad: %dx%d pixels with the frame are no multiple of the patch (%d): the frame's "
                "right and bottom are cut off, as in the published code",
                *(height, width, steps[0]),
            )

    @classmethod
    def input_size(cls, image_size: tuple[int, int], options: Mapping[str, Any]) -> tuple[int, int]:
        """Return the size of the image with its frame."""
        return tuple(edge + 2 * options["num_tokens"] for edge in image_size)

    def start(self, backbone: Backbone, images: Float[Array, "B H W C"], ctx: Context) -> Tokens:
        """Return the tokens of the framed images."""
        batch, n = images.shape[0], self.width
        parts = [_normalised(p[...], self.pixel_init) for p in (self.rows, self.columns)]
        rows, columns = (jnp.broadcast_to(p.astype(images.dtype), (batch, *p.shape)) for p in parts)
        images = jnp.concatenate([columns[:, :, :n], images, columns[:, :, n:]], axis=2)
        images = jnp.concatenate([rows[:, :n], images, rows[:, n:]], axis=1)  # B H+2n W+2n C
        return super().start(backbone, images, ctx)


class Below(Method):
    """Prompts as further channels of the image; the whole stem trains, for old and new channels.

    The new channels have weights of their own, as a convolution is a sum over channels. The norm
    of a convolutional stem trains with it.

    Args:
        num_tokens: number of channels.
        pixel_init: how the pixels start, see above.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        num_tokens: int = 5,
        pixel_init: str = "uniform",
        rngs: nnx.Rngs,
        **inherited,
    ):
        _at_least_one(num_tokens, "channel")
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        self.stem, self.pixel_init = backbone.stem, pixel_init
        self.trainable = self.trainable_stats = rf"method/.*|backbone/({self.stem.params})"
        self.prompts = nnx.Param(
            _draw(pixel_init, (*backbone.image_size, num_tokens), backbone, rngs)
        )
        area, dim = math.prod(self.stem.window), self.stem.dim
        bound = math.sqrt(6 / ((self.stem.channels + num_tokens) * area + dim * area))
        if any(s.has_attention for s in backbone.sites):
            bound = xavier_bound(self.stem.window, dim)
        shape = (*self.stem.window, num_tokens, dim)
        self.kernel = nnx.Param(
            jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)
        )

    def start(self, backbone: Backbone, images: Float[Array, "B H W C"], ctx: Context) -> Tokens:
        """Return the tokens of the images; `tap` adds what the new channels contribute."""
        return super().start(
            backbone, images, dataclasses.replace(ctx, noisy_backbone=backbone.batch_norm)
        )

    def tap(self, site: str, y: Any, x: Array, ctx: Context) -> Any:
        """Return the stem's output plus the part of the new channels, the same for all images."""
        if site != "stem":
            return y
        pixels = _normalised(self.prompts[...], self.pixel_init)[None].astype(y.dtype)
        part = jax.lax.conv_general_dilated(
            pixels,
            self.kernel[...].astype(y.dtype),
            self.stem.stride,
            [(self.stem.padding, self.stem.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + part


def _draw(init: str, shape: tuple[int, ...], backbone: Backbone, rngs: nnx.Rngs) -> Array:
    if init not in INITS:
        raise unknown("pixel_init", init, INITS)
    if init == "gaussian":
        return jax.random.normal(rngs.params(), shape)
    if init == "imagenet":
        return jax.random.uniform(rngs.params(), shape)
    bound = xavier_bound(backbone.stem.window, backbone.stem.dim)
    return jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)


def _normalised(pixels: Float[Array, "H W C"], init: str) -> Float[Array, "H W C"]:
    if init != "imagenet":
        return pixels
    mean, std = jnp.array(MEAN, jnp.float32), jnp.array(STD, jnp.float32)
    if pixels.shape[-1] != 3:  # no colours: the mean over the three
        mean, std = mean.mean(), std.mean()
    return (pixels - mean) / std


def _at_least_one(num_tokens: int, what: str) -> None:
    if num_tokens < 1:
        raise UserError(f"num_tokens is {num_tokens}; give at least 1 {what}")
