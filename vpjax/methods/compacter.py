"""Compacter: adapters whose matrices are sums of Kronecker products, one factor shared by all.

    H = sum_j R_j (x) (left_j right_j)        R: n x n x n, shared; left, right: of rank k

Karimi Mahabadi et al. 2021, arXiv 2106.04647. There is no published form for images: adapters
stand after attention and MLP, as Houlsby's, with GELU and no norm.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.methods.base import Method, instead
from vpjax.nn.activations import gelu
from vpjax.nn.context import Context

PLACES = ("attn", "mlp")


class Compacter(Method):
    """Adapters of Kronecker products after attention and MLP of every block.

    Args:
        rank: width of the bottleneck, a multiple of n.
        n: number of products, and edge of the shared factors.
        phm_rank: k, rank of the other factors.

    Raises:
        UserError: if the backbone has no attention or MLP, or n does not divide a width.
    """

    no_decay = r"method/rule|method/layers/.*/bias"
    why_whole = "its bottlenecks have an activation inside"
    completes_backbone = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        rank: int = 8,
        n: int = 4,
        phm_rank: int = 1,
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        if not backbone.taps.issuperset(PLACES):
            raise UserError(
                f"{type(backbone).__name__} has no attention and MLP for adapters to follow; use "
                f"{instead(backbone)}."
            )
        self.rule = nnx.Param(0.01 * jax.random.normal(rngs.params(), (n, n, n)))
        self.layers = nnx.Dict()
        for site in backbone.sites:
            if hasattr(backbone.layers[site.index], "mlp"):
                if site.dim % n or rank % n:
                    raise UserError(f"n is {n}; it must divide rank {rank} and width {site.dim}")
                sizes = {"down": (site.dim, rank), "up": (rank, site.dim)}
                make = lambda sizes=sizes: nnx.Dict(  # noqa: E731
                    {k: Factors(*size, n, phm_rank, rngs=rngs) for k, size in sizes.items()}
                )
                self.layers[str(site.index)] = nnx.Dict({place: make() for place in PLACES})

    def tap(self, site: str, y: Any, x: Array, ctx: Context) -> Any:
        """Add an adapter to the output of attention or MLP."""
        if site not in PLACES or str(ctx.layer) not in self.layers:
            return y
        own, rule = self.layers[str(ctx.layer)][site], self.rule[...]
        return y + own["up"](gelu(own["down"](y, rule)), rule)


class Factors(nnx.Module):
    """A linear layer whose matrix is a sum of Kronecker products: ... in -> ... out."""

    def __init__(self, inputs: int, outputs: int, n: int, rank: int, *, rngs: nnx.Rngs):
        a, b = inputs // n, outputs // n

        def draw(rows: int, columns: int) -> Array:
            bound = math.sqrt(12 / (rows + columns))  # Xavier's, times sqrt(2)
            shape = (n, rows, columns)
            return jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)

        self.left, self.right = nnx.Param(draw(a, rank)), nnx.Param(draw(rank, b))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "... in"], rule: Array) -> Float[Array, "... out"]:
        inner = self.left[...] @ self.right[...]  # n in/n out/n
        kernel = jnp.einsum("jac,jio->aico", rule, inner).reshape(x.shape[-1], -1)
        return x @ kernel.astype(x.dtype) + self.bias[...].astype(x.dtype)
