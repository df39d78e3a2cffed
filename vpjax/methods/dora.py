"""DoRA: LoRA's change of a frozen weight, with the length of each of its rows learnt apart.

    V = W + s B A        y = (magnitude / |V|) V x + b        |V|: the norm of each row of V

Liu et al. 2024, arXiv 2402.09353. No gradient flows through |V|. Kept is `shift`, magnitude - |W|,
which is zero at the start: its gradient is the magnitude's, and weight decay pulls the magnitude to
|W| instead of to zero. With dropout the mask reaches the frozen weight too, as in the peft library.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.methods import linears
from vpjax.methods.lora import LoRA
from vpjax.nn.context import Context


class DoRA(LoRA):
    """Low-rank changes of linear layers whose rows have learnt lengths.

    Args: those of `vpjax.methods.lora.LoRA`.
    """

    def __init__(self, backbone: Backbone, num_classes: int, *, rngs: nnx.Rngs, **inherited):
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        for names in self.layers.values():
            for own in names.values():
                own.shift = nnx.Param(jnp.zeros(own.b.shape[1]))

    def tap(self, site: str, y: Any, x: Array, ctx: Context) -> Any:
        """Replace the output of a linear layer by that of the changed weight."""
        found = linears.at(self.names, site, ctx)
        if found is None:
            return y
        name, third = found
        own, w = self.layers[str(ctx.layer)][name], linears.matrix(ctx.linear)
        wide = jnp.zeros((), jnp.float32)  # norms are computed in float32
        b, shift = (linears.third_of(v[...], third, wide, ctx) for v in (own.b, own.shift))
        gain = self.gain(w, own.a[...] @ b, shift).astype(y.dtype)
        x = linears.inputs(x, y, ctx)
        dropped = ctx.dropout(x, self.dropout, f"linear.{name}")
        bias = 0 if ctx.linear.bias is None else ctx.linear.bias[...].astype(y.dtype).ravel()
        flat = y.reshape(*x.shape[:-1], -1)
        frozen = flat - bias if dropped is x else dropped @ w.astype(x.dtype)
        change = self.scale * (dropped @ own.a[...].astype(x.dtype) @ b.astype(x.dtype))
        return (flat + (gain - 1) * frozen + gain * change).reshape(y.shape)

    def gain(
        self, w: Float[Array, "in out"], ab: Float[Array, "in out"], shift: Float[Array, " out"]
    ) -> Float[Array, " out"]:
        """Return magnitude / |V|, by which each output of the changed weight is multiplied."""
        w = w.astype(jnp.float32)
        changed = jax.lax.stop_gradient(jnp.linalg.norm(w + self.scale * ab, axis=0))
        return (jnp.linalg.norm(w, axis=0) + shift) / changed

    def fold(self, backbone: Backbone) -> dict[str, Array]:
        """Return the changed weights with their learnt lengths."""

        def change(own, outputs, w, bias):
            ab = own.a[...] @ own.b[..., outputs]
            return (w + self.scale * ab) * self.gain(w, ab, own.shift[outputs]), bias

        return linears.fold(backbone, self.layers, change)
