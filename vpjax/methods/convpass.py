"""Convpass: a narrow 3 x 3 convolution on the grid of tokens, beside attention and MLP.

    o + s P1(LN1(x)),   m + s P2(LN2(u))        P(x) = up(act(conv(act(down x))))

Jie, Deng 2022, arXiv 2207.07039. The class token, and every other token outside the grid, passes
the convolution as an image of one pixel: only the centre of the kernel acts. `up` starts at zero.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError, unknown
from vpjax.methods.base import Method, instead
from vpjax.nn.activations import quick_gelu
from vpjax.nn.context import Context

INITS = ("identity", "xavier")


class Convpass(Method):
    """Convolutional bypasses of attention and MLP of every block.

    Args:
        rank: r, channels of the convolution.
        scale: s.
        conv_init: how the convolution starts, "identity" or "xavier".
        dropout: rate, after the convolution.
        drop_path: probability that a bypass is left out for an image in the last block, rising
            linearly from 0 in the first.

    Raises:
        UserError: for another start, or a backbone without attention and MLP.
    """

    places: tuple[str, ...] = ("attn", "mlp")
    why_whole = "its convolutions have activations around them"
    completes_backbone = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        rank: int = 8,
        scale: float = 1.0,
        conv_init: str = "identity",
        dropout: float = 0.1,
        drop_path: float = 0.0,
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        if conv_init not in INITS:
            raise unknown("conv_init", conv_init, INITS)
        if not backbone.taps.issuperset(self.places):
            raise UserError(
                f"{type(backbone).__name__} has no attention and MLP to bypass; use "
                f"{instead(backbone)}."
            )
        self.scale, self.dropout = scale, dropout
        self.drop_path = drop_path / max(len(backbone.sites) - 1, 1)  # a block
        self.grids = tuple(site.grid for site in backbone.sites)
        self.layers = nnx.Dict()
        for site in backbone.sites:
            if site.has_attention:
                own = {p: Bypass(site.dim, rank, conv_init, rngs=rngs) for p in self.places}
                self.layers[str(site.index)] = nnx.Dict(own)

    def tap(self, site: str, y: Any, x: Array, ctx: Context) -> Any:
        """Add the bypass to the output of attention or MLP."""
        if site not in self.places or str(ctx.layer) not in self.layers:
            return y
        own, grid = self.layers[str(ctx.layer)][site], self.grids[ctx.layer]
        drop = lambda h: ctx.dropout(h, self.dropout, f"adapter_{site}")  # noqa: E731
        prefix = max(x.shape[1] - math.prod(grid), 0)
        if y.shape[1] <= prefix:  # tokens outside the grid need no neighbours
            x = x[:, : y.shape[1]]
        branch = own(x, grid, drop)[:, : y.shape[1]]
        if rate := self.drop_path * ctx.layer:  # of whole images
            kept = jnp.ones((len(branch), 1, 1), branch.dtype)
            branch = branch * ctx.dropout(kept, rate, f"adapter_{site}.branch")
        return y + self.scale * branch


class ConvpassAttn(Convpass):
    """Convolutional bypasses of attention only.

    Args: those of `Convpass`.
    """

    places = ("attn",)


class Bypass(nnx.Module):
    """down, convolution, up: B L D -> B L D."""

    def __init__(self, dim: int, rank: int, conv_init: str, *, rngs: nnx.Rngs):
        def xavier(shape: tuple[int, ...], fan: int) -> Array:
            bound = math.sqrt(6 / fan)
            return jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)

        shape = (3, 3, rank, rank)
        centre = jnp.zeros(shape).at[1, 1].set(jnp.eye(rank))
        self.down = nnx.Param(xavier((dim, rank), dim + rank))
        self.down_bias = nnx.Param(jnp.zeros(rank))
        self.conv = nnx.Param(centre if conv_init == "identity" else xavier(shape, 18 * rank))
        self.conv_bias = nnx.Param(jnp.zeros(rank))
        self.up, self.up_bias = nnx.Param(jnp.zeros((rank, dim))), nnx.Param(jnp.zeros(dim))

    def __call__(self, x: Float[Array, "B L D"], grid: tuple[int, int], drop) -> Array:
        down, down_bias, conv, conv_bias, up, up_bias = (
            getattr(self, name)[...].astype(x.dtype)
            for name in ("down", "down_bias", "conv", "conv_bias", "up", "up_bias")
        )
        h = quick_gelu(x @ down + down_bias)
        cells = math.prod(grid) if h.shape[1] >= math.prod(grid) else 0
        outside, inside = jnp.split(h, [h.shape[1] - cells], axis=1)
        t = outside @ conv[1, 1]
        if cells:
            dims = ("NHWC", "HWIO", "NHWC")
            inside = inside.reshape(len(h), *grid, -1)
            inside = jax.lax.conv_general_dilated(
                inside, conv, (1, 1), "SAME", dimension_numbers=dims
            )
            t = jnp.concatenate([t, inside.reshape(len(h), cells, -1)], axis=1)
        return drop(quick_gelu(t + conv_bias)) @ up + up_bias
