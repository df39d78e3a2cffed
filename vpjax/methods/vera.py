"""VeRA: one frozen random pair of matrices for all layers, and two trained vectors a layer.

    y = W x + b + lambda_b * B (lambda_d * A x)

Kopiczko et al. 2023, arXiv 2310.11454. A layer uses the first columns of A and the first rows of B.
The pair is drawn from a seed of its own by the Mersenne Twister, as the peft library draws it, on
every machine and in every version the same: the seed stands for the pair, which no file holds.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.methods import linears
from vpjax.methods.base import Method
from vpjax.nn.context import Context


class VeRA(Method):
    """Trained vectors between frozen random matrices beside linear layers.

    Args:
        sites: names of linear layers, see `vpjax.methods.linears`.
        rank: r, width between the two matrices; 256 to 1024 are usual.
        d_initial: where lambda_d starts.
        dropout: rate, of the input of A.
        pair_seed: of the frozen pair; peft's `projection_prng_key`.

    Raises:
        UserError: if the backbone has no such layer, or the rank is below 1.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        sites: str = "q+v",
        rank: int = 256,
        d_initial: float = 0.1,
        dropout: float = 0.0,
        pair_seed: int = 0,
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        if rank < 1:
            raise UserError(f"rank is {rank}; give 1 or more")
        self.names, self.dropout = linears.parse(sites), dropout
        places = linears.places(backbone, self.names)
        widest, most = max(p.inputs for p in places), max(p.outputs for p in places)
        random = np.random.RandomState(pair_seed)  # of all of NumPy's, the one that never changes
        self.a = Frozen(jnp.asarray(uniform(random, rank, widest).T))
        self.b = Frozen(jnp.asarray(uniform(random, most, rank).T))
        self.layers = nnx.Dict()
        for place in places:
            own = nnx.Dict(
                d=nnx.Param(jnp.full(rank, d_initial)), b=nnx.Param(jnp.zeros(place.outputs))
            )
            self.layers.setdefault(str(place.layer), nnx.Dict())[place.name] = own

    def tap(self, site: str, y: Any, x: Array, ctx: Context) -> Any:
        """Add what passes the frozen pair and the two vectors."""
        found = linears.at(self.names, site, ctx)
        if found is None:
            return y
        name, third = found
        own = self.layers[str(ctx.layer)][name]
        x = ctx.dropout(linears.inputs(x, y, ctx), self.dropout, f"linear.{name}")
        a, d = (v.astype(x.dtype) for v in (self.a[: x.shape[-1]], own.d[...]))
        b, scale = (linears.third_of(v[...], third, y, ctx) for v in (self.b, own.b))
        return y + ((x @ a * d) @ b * scale).reshape(y.shape)

    def fold(self, backbone: Backbone) -> dict[str, Array]:
        """Return the weights with the pair between the vectors added."""

        def change(own, outputs, w, bias):
            ab = (self.a[: len(w)] * own.d[...]) @ self.b[:, outputs]
            return w + ab * own.b[outputs], bias

        return linears.fold(backbone, self.layers, change)


def uniform(random: np.random.RandomState, rows: int, columns: int) -> Float[np.ndarray, "R C"]:
    """Return numbers of U(-b, b), b = sqrt(6 / columns), as PyTorch draws them."""
    bits = random.randint(0, 2**32, rows * columns, np.uint32) & 0xFFFFFF
    bound = np.float32(np.sqrt(6 / columns))
    drawn = bits.astype(np.float32) / np.float32(2**24) * (2 * bound) - bound
    return drawn.reshape(rows, columns)


class Frozen(nnx.Variable):
    """An array of a method that never trains."""
