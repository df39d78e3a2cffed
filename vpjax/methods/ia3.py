"""IA3: trained vectors that scale what linear layers return, or take in; ones at the start.

    y = l * (W x + b)       or, for `feedforward` layers,       y = W (l * x) + b

Liu et al. 2022, arXiv 2205.05638. On a ViT: keys, values, and the hidden values of the MLP, after
its activation. Weight decay would pull the vectors to 0, not to 1: train without.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.methods import linears
from vpjax.methods.base import Method
from vpjax.nn.context import Context


class IA3(Method):
    """Trained scales of outputs and inputs of linear layers.

    Args:
        sites: names of linear layers, see `vpjax.methods.linears`.
        feedforward: those of them whose input is scaled instead of the output; "": none.

    Raises:
        UserError: if the backbone has no such layer, or `feedforward` has a name that `sites` has
            not.
    """

    no_decay = r"method/layers/.*"

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        sites: str = "k+v+fc2",
        feedforward: str = "fc2",
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        self.names = linears.parse(sites)
        self.feedforward = linears.parse(feedforward, "feedforward") if feedforward else ()
        if unknown := [name for name in self.feedforward if name not in self.names]:
            raise UserError(
                f"feedforward={feedforward!r} names {unknown[0]}, which sites={sites!r} does not"
            )
        self.layers = nnx.Dict()
        for place in linears.places(backbone, self.names):
            width = place.inputs if place.name in self.feedforward else place.outputs
            own = self.layers.setdefault(str(place.layer), nnx.Dict())
            own[place.name] = nnx.Dict(scale=nnx.Param(jnp.ones(width)))

    def tap(self, site: str, y: Any, x: Array, ctx: Context) -> Any:
        """Scale the output of a linear layer, or compute it from scaled inputs."""
        found = linears.at(self.names, site, ctx)
        if found is None:
            return y
        name, third = found
        scale = self.layers[str(ctx.layer)][name]["scale"][...]
        if name not in self.feedforward:
            scale = linears.third_of(scale, third, y, ctx)
            return y * scale.reshape(ctx.linear.kernel.shape[ctx.linear.inputs :])
        x = linears.inputs(x, y, ctx) * scale.astype(x.dtype)
        # The compiler removes y, which nothing reads.
        return ctx.linear(x.reshape(*x.shape[:-1], *ctx.linear.kernel.shape[: ctx.linear.inputs]))

    def fold(self, backbone: Backbone) -> dict[str, Array]:
        """Return the weights with rows, or columns, scaled."""
        own = {
            i: {n: (n in self.feedforward, v["scale"][...]) for n, v in names.items()}
            for i, names in self.layers.items()
        }

        def change(own, outputs, w, bias):
            feeds, scale = own
            if feeds:
                return w * scale[:, None], bias
            return w * scale[outputs], bias * scale[outputs]

        return linears.fold(backbone, own, change)
