"""Adapters: a small bottleneck after every MLP, before the residual sum.

    m' = m + up(gelu(down(m)))          down: D -> D // reduction, up: back

Pfeiffer et al. 2020 (arXiv 2005.00247), the form that VPT compares with (arXiv 2203.12119). `up`
starts at zero, so training starts from the backbone's own function. In the published code `down`
starts at zero too: then neither ever gets a gradient, and only the bias of `up` is learnt.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.methods.base import Method
from vpjax.nn.activations import gelu
from vpjax.nn.context import Context


class Adapter(Method):
    """A trained bottleneck after the MLP of every layer of a frozen backbone.

    Args:
        reduction: the bottleneck is D // reduction wide, D being the width of the layer.
        match_reference_code: whether `down` starts at zero as well, as published.

    Raises:
        UserError: if the backbone has no MLPs, or `reduction` leaves the bottleneck no width.
    """

    why_whole = "its bottlenecks have an activation inside"
    completes_backbone = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        reduction: int = 8,
        match_reference_code: bool = False,
        rngs: nnx.Rngs,
        **inherited,
    ):
        if "mlp" not in backbone.taps:
            raise UserError(
                f"{type(backbone).__name__} has no MLP for an adapter to follow. Use a transformer "
                "or ConvNeXt, or another method, such as finetune.Bias."
            )
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        self.adapters = nnx.Dict()
        for site in backbone.sites:
            if hasattr(backbone.layers[site.index], "mlp"):
                if not 1 <= reduction <= site.dim:
                    raise UserError(
                        f"reduction is {reduction}; give 1 to {site.dim}, the width of the layer"
                    )
                width = site.dim // reduction
                self.adapters[str(site.index)] = _Bottleneck(
                    site.dim, width, match_reference_code, rngs=rngs
                )

    def tap(self, site: str, y: Any, x: Array, ctx: Context) -> Any:
        """Add the bottleneck to the MLP's output."""
        if site != "mlp":
            return y
        return y + self.adapters[str(ctx.layer)](y)


class _Bottleneck(nnx.Module):
    def __init__(self, dim: int, width: int, zero: bool, *, rngs: nnx.Rngs):
        shape = (dim, width)
        draw = jax.nn.initializers.he_normal()
        self.down = nnx.Param(jnp.zeros(shape) if zero else draw(rngs.params(), shape))
        self.down_bias = nnx.Param(jnp.zeros(width))
        self.up = nnx.Param(jnp.zeros((width, dim)))
        self.up_bias = nnx.Param(jnp.zeros(dim))

    def __call__(self, x: Float[Array, "*B L D"]) -> Float[Array, "*B L D"]:
        down, down_bias, up, up_bias = (
            p[...].astype(x.dtype) for p in (self.down, self.down_bias, self.up, self.up_bias)
        )
        return gelu(x @ down + down_bias) @ up + up_bias
