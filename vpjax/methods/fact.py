"""FacT: changes of all six linear layers of a ViT, as one tensor in factors: s V c (U x).

Jie, Deng 2022, arXiv 2212.03145. U and V are shared by all layers; c is r x r, and r x 4 r for the
MLP, whose hidden values are four groups as wide as a token, or another number of them. In TT each c
is trained; in TK they are products of a core and a matrix. V starts at zero, so training starts
from the backbone's function.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.methods import linears
from vpjax.methods.base import Method
from vpjax.nn.context import Context

NAMES = tuple(linears.SITES)


class TT(Method):
    """FacT in tensor-train form: a matrix c for every linear layer.

    Args:
        rank: r.
        scale: s.
        dropout: rate, of what c returns.

    Raises:
        UserError: if the backbone is no ViT whose MLPs are four times, or another whole number of
            times, as wide as its tokens.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        rank: int = 16,
        scale: float = 1.0,
        dropout: float = 0.1,
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        places = linears.places(backbone, NAMES)
        dim = places[0].inputs
        sizes = {sorted((p.inputs, p.outputs))[-1] for p in places if p.name in ("fc1", "fc2")}
        widths = {p.inputs for p in places if p.name == "q"}
        if len(sizes) > 1 or max(sizes) % dim or len(widths) > 1:
            raise UserError(
                "FacT needs blocks of one width whose MLPs are four times as wide, or another "
                f"whole number of times; this {type(backbone).__name__} has MLPs of "
                f"{sorted(sizes)} on tokens of {dim}; use lora.LoRA."
            )
        self.rank, self.scale, self.dropout = rank, scale, dropout
        self.groups = max(sizes) // dim  # hidden values of the MLP by the width of a token
        self.u = uniform((dim, rank), 1 / math.sqrt(dim), rngs)
        self.v = nnx.Param(jnp.zeros((rank, dim)))
        self.cores(len(places) // len(NAMES), rngs)

    def cores(self, depth: int, rngs: nnx.Rngs) -> None:
        """Make the parameters of all c."""
        r, wide = self.rank, self.groups * self.rank
        shapes = {"fc1": (r, wide), "fc2": (wide, r)}
        self.layers = nnx.Dict()
        for i in range(depth):
            shaped = {name: shapes.get(name, (r, r)) for name in NAMES}
            own = {n: uniform(shape, 1 / math.sqrt(shape[0]), rngs) for n, shape in shaped.items()}
            self.layers[str(i)] = nnx.Dict(own)

    def core(self, layer: int, name: str) -> Float[Array, "in out"]:
        """Return c of a linear layer."""
        return self.layers[str(layer)][name][...]

    def tap(self, site: str, y: Any, x: Array, ctx: Context) -> Any:
        """Add s V c (U x) to the output of a linear layer."""
        found = linears.at(NAMES, site, ctx)
        if found is None:
            return y
        name, x = found[0], linears.inputs(x, y, ctx)
        u, v, c = (
            p.astype(x.dtype) for p in (self.u[...], self.v[...], self.core(ctx.layer, name))
        )
        h = x.reshape(*x.shape[:-1], -1, len(u)) @ u  # one group, or those of the MLP
        h = ctx.dropout(h.reshape(*x.shape[:-1], -1) @ c, self.dropout, f"linear.{name}")
        return y + self.scale * (h.reshape(*h.shape[:-1], -1, len(v)) @ v).reshape(y.shape)

    def fold(self, backbone: Backbone) -> dict[str, Array]:
        """Return the weights with s V c U added."""
        own = {
            str(i): {name: self.core(i, name) for name in NAMES}
            for i in range(len(backbone.layers))
        }

        def change(core, outputs, w, bias):
            c = core.reshape(core.shape[0] // self.rank, self.rank, -1, self.rank)  # G r H r
            added = jnp.einsum("ir,grhs,so->giho", self.u[...], c, self.v[...])
            return w + self.scale * added.reshape(w.shape), bias

        return linears.fold(backbone, own, change)


class TK(TT):
    """FacT in Tucker form: all c are a core of r x r x r times a matrix.

    Args: those of `TT`.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        rank: int = 32,
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(backbone, num_classes, rank=rank, rngs=rngs, **inherited)

    def cores(self, depth: int, rngs: nnx.Rngs) -> None:
        """Make the core and the matrix, of 12 columns a block where MLPs are four times as wide."""
        r, columns = self.rank, self.columns * depth
        self.c = uniform((r, r, r), math.sqrt(3) / r, rngs)
        self.p = uniform((r, columns), math.sqrt(6 / (r + columns)), rngs)

    @property
    def columns(self) -> int:
        """Columns of the matrix that a block has: of q, k, v, proj, and groups of fc1 and fc2."""
        return 4 + 2 * self.groups

    def core(self, layer: int, name: str) -> Float[Array, "in out"]:
        """Return c of a linear layer; columns are q, k, v, proj, four of fc1, four of fc2."""
        first = {"fc1": 4, "fc2": 4 + self.groups}.get(name, NAMES.index(name))
        count = self.groups if name in ("fc1", "fc2") else 1
        start = self.columns * layer + first
        k = jnp.einsum("abk,kj->abj", self.c[...], self.p[:, start : start + count])
        c = k.reshape(self.rank, -1)  # in memory order, as published
        return c.T if name == "fc2" else c


def uniform(shape: tuple[int, ...], bound: float, rngs: nnx.Rngs) -> nnx.Param:
    """Return a parameter drawn from U(-bound, bound)."""
    return nnx.Param(jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound))
