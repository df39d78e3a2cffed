"""The plain convolutional network for small images in MS-VP's code (arXiv 2512.03663).

    image -> [3x3 conv, norm, relu] x 8, max pooling after the 2nd, 4th and 6th
          -> mean -> dropout, dense, relu, dropout -> features

The width doubles with every second convolution. Each convolution is a layer, except the first,
which is the stem. The dense layer is the last layer, so the head reads the output of its dropout.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone, Site, Stem
from vpjax.core.errors import UserError
from vpjax.core.size import pair
from vpjax.nn.context import Context
from vpjax.nn.conv import BatchNorm, Conv, global_mean, last_stages, to_map, to_tokens
from vpjax.nn.tokens import Tokens

POOLS = 3


class CNN(Backbone):
    """A convolutional network of 4 stages; features are 4 `width` wide.

    Args:
        image_size: an edge or (height, width), pixels; at least 8.
        width: channels of the first two convolutions.
        channels: channels of images: 3, or 1 for grey ones.
        dropout: rates before and after the dense layer; they act only while the backbone trains.

    Raises:
        UserError: for smaller images.
    """

    batch_norm = True

    def __init__(
        self,
        image_size: int | tuple[int, int] = 32,
        *,
        width: int = 32,
        channels: int = 3,
        dropout: tuple[float, float] = (0.5, 0.3),
        rngs: nnx.Rngs,
    ):
        self.image_size = grid = pair(image_size)
        if min(grid) < 2**POOLS:
            raise UserError(f"cnn.CNN halves images {POOLS} times; {grid} is below {2**POOLS}")
        self.patch_size, self.grid, self.dim = (1, 1), grid, 4 * width
        self.taps = frozenset({"stem", "embed", "conv", "hidden"})
        self.stem = Stem((3, 3), (1, 1), 1, width, r"patch_(embed|norm)/.*", channels)

        self.patch_embed = Conv(channels, width, 3, bias=True, rngs=rngs)
        self.patch_norm = BatchNorm(width)
        self.layers, sites, dim = nnx.List(), [], width
        for number in range(1, 2 * (POOLS + 1)):
            stage, second = divmod(number, 2)
            pools = bool(second) and stage < POOLS
            sites.append(Site(len(sites), stage, dim, grid, has_attention=False))
            self.layers.append(_Layer(dim, width * 2**stage, pools, rngs=rngs))
            dim = width * 2**stage
            grid = (grid[0] // 2, grid[1] // 2) if pools else grid
        sites.append(Site(len(sites), POOLS + 1, dim, grid, has_attention=False))
        self.layers.append(_Hidden(dim, self.dim, dropout, rngs=rngs))
        self.sites = tuple(sites)

    def patchify(self, images: Float[Array, "B H W C"], ctx: Context) -> Float[Array, "B h w D"]:
        """Apply the first convolution, its norm and relu."""
        x = ctx.tap("stem", self.patch_embed(images), images)
        return jax.nn.relu(self.patch_norm(x, ctx))

    def add_positions(self, patches: Float[Array, "B h w D"], ctx: Context) -> Tokens:
        """Return the feature map as tokens; convolutions need no positions."""
        return to_tokens(patches)

    def pool(self, tokens: Tokens, over: slice | None = None) -> Float[Array, "B D"]:
        """Return the output of the last layer.

        Raises: UserError if `over` is given.
        """
        return global_mean(tokens, over)  # of one token

    def partial(self, k: int) -> str:
        """Return the last k groups: the dense layer, then pairs of convolutions; no last norm."""
        return last_stages(k, [site.stage for site in self.sites])


class _Layer(nnx.Module):
    """A convolution with its norm and relu; `pools`: max pooling, which drops an odd edge."""

    def __init__(self, channels: int, dim: int, pools: bool, *, rngs: nnx.Rngs):
        self.conv = Conv(channels, dim, 3, bias=True, rngs=rngs)
        self.norm = BatchNorm(dim)
        self.pools = pools

    def __call__(
        self,
        tokens: Tokens,
        ctx: Context,
        extra_kv: Array | None = None,
        num_outputs: int | None = None,
    ) -> Tokens:
        x = to_map(tokens, extra_kv)
        x = jax.nn.relu(self.norm(ctx.tap("conv", self.conv(x), x), ctx))
        return to_tokens(_halved(x) if self.pools else x).first(num_outputs)


class _Hidden(nnx.Module):
    """The mean of the map through dropout, dense, relu, dropout: a map of one cell."""

    def __init__(self, channels: int, dim: int, dropout: tuple[float, float], *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(0.01 * jax.random.normal(rngs.params(), (channels, dim)))
        self.bias = nnx.Param(jnp.zeros(dim))
        self.before, self.after = dropout

    def __call__(
        self,
        tokens: Tokens,
        ctx: Context,
        extra_kv: Array | None = None,
        num_outputs: int | None = None,
    ) -> Tokens:
        x = to_map(tokens, extra_kv).mean((1, 2), keepdims=True)  # B 1 1 D
        x = ctx.backbone_dropout(x, self.before, "before")
        y = x @ self.kernel[...].astype(x.dtype) + self.bias[...].astype(x.dtype)
        y = jax.nn.relu(ctx.tap("hidden", y, x))
        return to_tokens(ctx.backbone_dropout(y, self.after, "after")).first(num_outputs)


def _halved(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """Return the maximum of every 2 x 2 cells.

    The gradient depends on which of two cells is larger. That of `max` depends on which one equals
    the result, which is wrong where the compiler computes a cell twice and rounds it differently.
    """
    batch, height, width, dim = x.shape
    h, w = height // 2, width // 2
    x = x[:, : 2 * h, : 2 * w].reshape(batch, h, 2, w, 2, dim)
    x = jnp.where(x[:, :, 0] >= x[:, :, 1], x[:, :, 0], x[:, :, 1])  # B h w 2 C
    return jnp.where(x[:, :, :, 0] >= x[:, :, :, 1], x[:, :, :, 0], x[:, :, :, 1])
