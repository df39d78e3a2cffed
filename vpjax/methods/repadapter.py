"""RepAdapter: a linear bottleneck before attention and MLP, which folds into their weights.

    R(x) = x + s (B (A x + a) + b)       after each norm; B in groups of channels

Luo et al. 2023, arXiv 2302.08106. B starts at zero, so training starts from the backbone's own
function.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.backbones.swin_v2 import SwinV2
from vpjax.core.errors import UserError
from vpjax.methods import linears
from vpjax.methods.base import Method
from vpjax.nn.context import Context

# name: (the norm it follows, the linear layers that read it)
PLACES = {"adapter_attn": ("norm1", "qkv"), "adapter_mlp": ("norm2", "fc1")}


class RepAdapter(Method):
    """Linear bottlenecks before attention and MLP of every block.

    Args:
        attention_only: whether the MLP has none ("repattn").
        rank: r, its width.
        scale: s.
        groups: of channels in B.
        dropout: rate, between A and B.

    Raises:
        UserError: if the backbone has no norms before attention and MLP, or the groups do not
            divide rank and width.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        attention_only: bool = False,
        rank: int = 8,
        scale: float = 1.0,
        groups: int = 2,
        dropout: float = 0.1,
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        if isinstance(backbone, SwinV2):
            raise UserError(
                "SwinV2 has its norms after attention and MLP, not before, where RepAdapter's "
                "bottlenecks stand; use bottleneck.AdapterPlus."
            )
        self.scale, self.dropout = scale, dropout
        self.names = tuple(PLACES)[:1] if attention_only else tuple(PLACES)
        self.layers = nnx.Dict()
        for place in linears.places(backbone, tuple(PLACES[n][1] for n in self.names)):
            if rank % groups or place.inputs % groups:
                raise UserError(
                    f"groups is {groups}; it must divide rank {rank} and width {place.inputs}"
                )
            name = next(n for n in self.names if PLACES[n][1] == place.name)
            own = Grouped(place.inputs, rank, groups, rngs=rngs)
            self.layers.setdefault(str(place.layer), nnx.Dict())[name] = own

    def tap(self, site: str, y: Any, x: Array, ctx: Context) -> Any:
        """Pass the output of a norm through its bottleneck."""
        for name in self.names:
            if site == PLACES[name][0] and str(ctx.layer) in self.layers:
                own = self.layers[str(ctx.layer)][name]
                drop = lambda h, name=name: ctx.dropout(h, self.dropout, name)  # noqa: E731
                return y + self.scale * own(y, drop)
        return y

    def fold(self, backbone: Backbone) -> dict[str, Array]:
        """Return the weights of the layers that read the norms, times the bottleneck."""

        def change(own, outputs, w, bias):
            b = jax.scipy.linalg.block_diag(*own.b[...])  # r D
            e = self.scale * (own.a_bias[...] @ b + own.b_bias[...])
            return w + self.scale * own.a[...] @ (b @ w), bias + e @ w

        own = {
            i: {PLACES[name][1]: adapter for name, adapter in names.items()}
            for i, names in self.layers.items()
        }
        out = linears.fold(backbone, own, change, bias=True)
        for i, names in self.layers.items():  # a gated MLP reads the norm twice
            gate = getattr(backbone.layers[int(i)].mlp, "gate", None)
            if gate is not None and "adapter_mlp" in names:
                w, bias = linears.matrix(gate).astype(jnp.float32), gate.bias[...]
                path = f"layers/{i}/mlp/gate"
                new = change(names["adapter_mlp"], slice(None), w, bias)
                out[f"{path}/kernel"], out[f"{path}/bias"] = new
        return out


class Grouped(nnx.Module):
    """a dense, b in groups: channels of group g read the hidden values of group g only."""

    def __init__(self, dim: int, rank: int, groups: int, *, rngs: nnx.Rngs):
        bound = math.sqrt(6 / (dim + rank))
        self.a = nnx.Param(
            jax.random.uniform(rngs.params(), (dim, rank), minval=-bound, maxval=bound)
        )
        self.a_bias = nnx.Param(jnp.zeros(rank))
        self.b = nnx.Param(jnp.zeros((groups, rank // groups, dim // groups)))
        self.b_bias = nnx.Param(jnp.zeros(dim))

    def __call__(self, x: Float[Array, "... D"], drop) -> Float[Array, "... D"]:
        a, a_bias, b, b_bias = (
            p[...].astype(x.dtype) for p in (self.a, self.a_bias, self.b, self.b_bias)
        )
        h = drop(x @ a + a_bias)
        h = h.reshape(*h.shape[:-1], len(b), -1)
        return jnp.einsum("...gr,gro->...go", h, b).reshape(x.shape) + b_bias
