"""What a backbone offers, and nothing else a method may rely on.

    tokens = backbone.embed(images, ctx)            B H W 3 -> Tokens
    for layer in backbone.layers:                   layer(tokens, ctx, extra_kv=None, num_outputs=None)
        tokens = layer(tokens, ctx)
    features = backbone.pool(tokens)                Tokens -> B D   (over=slice(...): their mean)

`extra_kv` (P D or B P D) are tokens that a layer looks at but does not update; `num_outputs=n` asks for its
first n tokens only. Both return what the long way round would, with less work. A layer announces
its intermediate results with `ctx.tap(site, y, x)`; `taps` lists the sites that exist.
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
    """One layer as a method sees it."""

    index: int
    stage: int
    dim: int  # width of the tokens that enter
    grid: tuple[int, int]  # their grid (h, w)
    has_attention: bool = True  # False: moves tokens about (patch merging), without attention


class Stem(NamedTuple):
    """The convolution that reads pixels, as the site "stem" announces it: before any norm."""

    window: tuple[int, int]  # pixels
    stride: tuple[int, int]
    padding: int  # pixels on every side
    dim: int  # channels that come out
    params: str = r"patch_embed/.*"  # names of its parameters, with a BatchNorm that follows
    channels: int = 3  # of images


class Backbone(nnx.Module):
    """Attributes and functions every backbone has."""

    preset: str | None = None  # name of the preprocessing; of a class: whatever the weights
    dtype: str = "float32"  # of computation

    layers: nnx.List
    sites: tuple[Site, ...]
    dim: int  # width of the pooled feature
    head_dim: int | None  # width of an attention head; None: none that could be fused
    num_prefix_tokens: int  # tokens before the grid that have no place: a class token
    grid: tuple[int, int]  # token grid of an image
    patch_size: tuple[int, int]  # pixels of one cell of that grid
    stem: Stem
    image_size: tuple[int, int]
    num_pooled_tokens: int | None  # leading tokens `pool` reads; None: all, prompts too
    batch_norm: bool  # has running averages; layers that train then use the batch's own
    taps: frozenset[str]

    def __call__(self, images: Num[Array | np.ndarray, "B H W C"]) -> Float[Array, "B D"]:
        """Returns the pooled features of images.

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
        """Returns images (uint8 `B H W C`, or a list of uint8 `H W C`) as the weights need them.

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
        """Returns a line: class, size, weights, preprocessing."""
        count = sum(v.size for v in jax.tree.leaves(nnx.state(self)))
        origin = getattr(self, "origin", None)
        weights = (origin.spec.weights if origin else "") or "no weights file"
        height, width = self.image_size
        return (
            f"{type(self).__name__}({height} x {width} pixels, {len(self.layers)} layers, "
            f"{count:,} parameters, features {self.dim} wide, {weights}, preset {self.preset})"
        )

    __str__ = __repr__

    @classmethod
    def complete(cls, options: dict[str, Any], weights: str) -> dict[str, Any]:
        """Returns the options, with those that only the weights know."""
        return options

    def embed(self, images: Float[Array, "B H W C"], ctx: Context) -> Tokens:
        """Returns what enters the first layer."""
        return self.add_positions(self.patchify(images, ctx), ctx)

    def patchify(self, images: Float[Array, "B H W C"], ctx: Context) -> Float[Array, "B h w D"]:
        """Stem or patch projection."""
        raise NotImplementedError

    def add_positions(self, patches: Float[Array, "B h w D"], ctx: Context) -> Tokens:
        """Adds positions and the class token: also for a grid that did not come from pixels.

        Where there is a class token, a third argument (B extra D) takes its place.
        """
        raise NotImplementedError

    def pool(self, tokens: Tokens, over: slice | None = None) -> Float[Array, "B D"]:
        """Last norm and pooling; with `over`, the mean of those tokens takes pooling's place."""
        raise NotImplementedError

    def partial(self, k: int) -> str:
        """Returns a regular expression of what "partial-k" trains: the last k groups of layers.

        It is relative to the backbone, names whole layers ("layers/(10|11)/.*") and the last norm.
        Raises: UserError if there is no such group.
        """
        raise NotImplementedError
