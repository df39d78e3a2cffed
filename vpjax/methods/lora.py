"""LoRA: a trained product of two thin matrices beside frozen linear layers, y = W x + b + s B A x.

Hu et al. 2021, arXiv 2106.09685. A starts at U(+-1/sqrt(in)), B at zero, so training starts from
the backbone's own function. s = alpha / rank, or alpha / sqrt(rank) in rsLoRA (Kalajdzievski 2023,
arXiv 2312.03732). `qkv` shares one A between query, key and value, as the peft library does on
timm's models.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.methods import linears
from vpjax.methods.base import Method
from vpjax.nn.context import Context


class LoRA(Method):
    """Low-rank changes of linear layers of a frozen backbone.

    Args:
        sites: names of linear layers, see `vpjax.methods.linears`: "q+v", "q+k+v", "qkv", "all".
        rank: r, width between the two matrices.
        alpha: numerator of the scale; None: the rank, so that the scale is 1.
        rslora: whether the scale is alpha / sqrt(rank).
        dropout: rate, of the input of A; each layer has a mask of its own.

    Raises:
        UserError: if the backbone has no such layer, or the rank is below 1.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        sites: str = "q+v",
        rank: int = 8,
        alpha: float | None = None,
        rslora: bool = False,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        if rank < 1:
            raise UserError(f"rank is {rank}; give 1 or more")
        alpha = rank if alpha is None else alpha
        self.scale = alpha / (math.sqrt(rank) if rslora else rank)
        self.names, self.dropout = linears.parse(sites), dropout
        self.layers = nnx.Dict()
        for place in linears.places(backbone, self.names):
            pair = LowRank(place.inputs, place.outputs, rank, rngs=rngs)
            self.layers.setdefault(str(place.layer), nnx.Dict())[place.name] = pair

    def tap(self, site: str, y: Any, x: Array, ctx: Context) -> Any:
        """Add the product of the two matrices to the output of a linear layer."""
        found = linears.at(self.names, site, ctx)
        if found is None:
            return y
        name, third = found
        own = self.layers[str(ctx.layer)][name]
        x = ctx.dropout(linears.inputs(x, y, ctx), self.dropout, f"linear.{name}")
        b = linears.third_of(own.b[...], third, y, ctx)
        return y + (self.scale * (x @ own.a[...].astype(x.dtype) @ b)).reshape(y.shape)

    def fold(self, backbone: Backbone) -> dict[str, Array]:
        """Return the weights with s B A added."""

        def change(own, outputs, w, bias):
            return w + self.scale * own.a[...] @ own.b[..., outputs], bias

        return linears.fold(backbone, self.layers, change)


class LowRank(nnx.Module):
    """Two matrices whose product is zero at the start: a, in x r, and b, r x out."""

    def __init__(self, inputs: int, outputs: int, rank: int, *, rngs: nnx.Rngs):
        bound = 1 / math.sqrt(inputs)
        self.a = nnx.Param(
            jax.random.uniform(rngs.params(), (inputs, rank), minval=-bound, maxval=bound)
        )
        self.b = nnx.Param(jnp.zeros((rank, outputs)))
