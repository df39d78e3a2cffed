"""The interface of a backbone: what methods may rely on.

    tokens = backbone.embed(images, ctx)            B H W C -> Tokens
    for layer in backbone.layers:
        tokens = layer(tokens, ctx)                 also: extra_kv=None, num_outputs=None
    features = backbone.pool(tokens)                Tokens -> B D

`extra_kv` (P D or B P D) are tokens that a layer attends to but does not update; `num_outputs=n`
asks for its first n tokens only. Both give what the full computation would, with less work. A layer
announces its intermediate results with `ctx.tap(site, y, x)`; `taps` lists the sites of a backbone.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Num

from vpjax.core.errors import UserError
from vpjax.data.preprocess import preprocess
from vpjax.nn.context import EVALUATION, Context
from vpjax.nn.stack import run_layers
from vpjax.nn.tokens import Tokens


@dataclasses.dataclass(frozen=True)
class Site:
    """One layer as a method sees it.

    Attributes:
        index: its place in `backbone.layers`.
        stage: which stage it belongs to, from 0; one stage in a ViT.
        dim: width of the tokens that enter.
        grid: rows and columns (h, w) of the tokens that enter.
        has_attention: False for layers without attention, such as patch merging or convolutions.
    """

    index: int
    stage: int
    dim: int
    grid: tuple[int, int]
    has_attention: bool = True


class Stem(NamedTuple):
    """The convolution that reads pixels; the tap "stem" sees its output, before any norm.

    Attributes:
        window: height and width of its kernel, pixels.
        stride: pixels down and across.
        padding: pixels of zeros on every side.
        dim: output channels.
        params: regular expression of its parameters, with those of a BatchNorm that follows.
        channels: channels of images.
    """

    window: tuple[int, int]
    stride: tuple[int, int]
    padding: int
    dim: int
    params: str = r"patch_embed/.*"
    channels: int = 3


class Backbone(nnx.Module):
    """Base class of backbones. A subclass sets the attributes and defines the methods below.

    Attributes:
        layers: nnx.List of modules, called in this order.
        sites: a `Site` for each layer.
        image_size: height and width of images, pixels.
        patch_size: height and width of one cell of `grid`, pixels.
        grid: rows and columns (h, w) of the tokens that enter the first layer.
        dim: D, the width of the pooled features.
        stem: the convolution that reads pixels.
        taps: names of the sites inside layers that `ctx.tap` announces, such as "attn.out".
        num_prefix_tokens: tokens before the grid, such as a class token.
        num_pooled_tokens: how many leading tokens `pool` reads; None: all, prompts included.
        pools_prompts: whether prompts that leave the last layer are part of what `pool` reads,
            where that is all tokens.
        positions_in_layers: whether layers know the place of grid tokens, so that none may be
            missing: rotary positions or a relative bias.
        head_dim: width of an attention head; None where attention cannot be fused.
        batch_norm: whether there are BatchNorm layers. They use their running averages, or while
            `ctx.noisy_backbone` is on and the model trains, the averages of the batch.
        preset: the preprocessing, a name in `vpjax.data.PRESETS`. Of a class: what every weights
            file of the architecture needs; None: see `vpjax.models.factory.preset_of`.
        dtype: of computation, where a backbone is called by itself.
        never_assumed: options that have no usual value: what neither the weights' configuration nor
            the user says is an error, whatever the variant.
    """

    layers: nnx.List
    sites: tuple[Site, ...]
    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    grid: tuple[int, int]
    dim: int
    stem: Stem
    taps: frozenset[str]
    num_prefix_tokens: int = 0
    num_pooled_tokens: int | None = None
    pools_prompts: bool = True
    positions_in_layers: bool = False
    head_dim: int | None = None
    batch_norm: bool = False
    preset: str | None = None
    dtype: str = "float32"
    never_assumed: frozenset[str] = frozenset()

    @classmethod
    def complete(cls, options: dict[str, Any], weights: str) -> dict[str, Any]:
        """Fill in options that the weights decide, before the backbone is built.

        Args:
            options: keyword arguments of the class as the user gave them; None: not given.
            weights: path, address or name of the weights; "": none.

        Returns:
            The options to build the backbone with.
        """
        return options

    @classmethod
    def options_of_variant(cls, variant: str) -> dict[str, Any]:
        """Return the options that a variant stands for, such as {"dim": 768, "heads": 12}.

        Raises: UserError for an unknown variant.
        """
        return {}

    def check_image_size(self) -> None:
        """Check that patches cover whole images.

        Raises: UserError if they leave out pixels at the bottom or the right. A stem that pads, or
            whose windows overlap, sees every pixel.
        """
        stem = self.stem
        pairs = list(zip(self.image_size, stem.stride, strict=True))
        rest = [edge % step for edge, step in pairs]
        if stem.padding or stem.window != stem.stride or not any(rest):
            return
        down = [edge // step * step for edge, step in pairs]
        up = [-(-edge // step) * step for edge, step in pairs]
        by = lambda size: " by ".join(map(str, size))  # noqa: E731
        raise UserError(
            f"image_size is {by(self.image_size)} pixels, no multiple of the patches of "
            f"{by(stem.stride)}: {rest[0]} rows and {rest[1]} columns of every image would never "
            f"be looked at. Set backbone.image_size to {by(down)} or {by(up)}."
        )

    def __call__(self, images: Num[Array | np.ndarray, "B H W C"]) -> Float[Array, "B D"]:
        """Return the pooled features of images.

        Args:
            images: uint8, which `preprocess` prepares; or floats, which are taken as prepared.
        """
        if images.dtype == jnp.uint8:
            images = self.preprocess(images)
        tokens = self.embed(images, EVALUATION)
        step = lambda layer, tokens, ctx: layer(tokens, ctx, num_outputs=ctx.num_outputs)  # noqa: E731
        tokens = run_layers(self.layers, tokens, step, EVALUATION, self.num_pooled_tokens)
        return self.pool(tokens).astype(jnp.float32)

    def preprocess(self, images: Any) -> Float[Array, "B H W C"]:
        """Return images (uint8 `B H W C`, or a list of uint8 `H W C`) as the weights need them.

        Raises:
            UserError: if the preprocessing of the weights is not known.
        """
        if self.preset is None:
            raise UserError(
                f"what the weights of this {type(self).__name__} were made with is not known. Name "
                'a preprocessing: load_backbone(..., preset="imagenet").'
            )
        channels = self.stem.channels
        return preprocess(images, self.preset, self.image_size, channels, self.dtype)

    def __repr__(self) -> str:
        """Return a line: class, size, weights, preprocessing."""
        count = sum(v.size for v in jax.tree.leaves(nnx.state(self)))
        origin = getattr(self, "origin", None)
        weights = (origin.spec.weights if origin else "") or "no weights file"
        height, width = self.image_size
        return (
            f"{type(self).__name__}({height} x {width} pixels, {len(self.layers)} layers, "
            f"{count:,} parameters, features {self.dim} wide, {weights}, preset {self.preset})"
        )

    __str__ = __repr__

    def embed(self, images: Float[Array, "B H W C"], ctx: Context) -> Tokens:
        """Return the tokens of normalised images, which enter the first layer."""
        tokens = self.add_positions(self.patchify(images, ctx), ctx)
        return dataclasses.replace(tokens, x=ctx.tap("embed", tokens.x, images))

    def patchify(self, images: Float[Array, "B H W C"], ctx: Context) -> Float[Array, "B h w D"]:
        """Apply the stem, or project patches."""
        raise NotImplementedError

    def add_positions(self, patches: Float[Array, "B h w D"], ctx: Context) -> Tokens:
        """Add positions and prefix tokens where the backbone has them.

        Patches need not come from pixels. A backbone with prefix tokens takes tokens to use in
        their place as a third argument, B n D.
        """
        raise NotImplementedError

    def pool(self, tokens: Tokens, over: slice | None = None) -> Float[Array, "B D"]:
        """Apply the last norm and pool tokens to features.

        `over` replaces the backbone's own pooling by the mean of these tokens.
        Raises: UserError if `over` is given and there is nothing but a feature map.
        """
        raise NotImplementedError

    def partial(self, k: int) -> str:
        """Return a regular expression of what "partial-k" trains: the last k groups of layers.

        It is relative to the backbone and matches whole layers, "layers/(10|11)/.*", and the last
        norm. Each backbone says what its groups are.
        Raises: UserError if there are not that many groups.
        """
        raise NotImplementedError
