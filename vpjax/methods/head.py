"""The classification head: a linear layer, with hidden layers before it if wanted.

    features -> (norm ->) [ Dense -> ReLU -> BatchNorm -> Dropout 0.1 ] x hidden -> Dense -> logits

Initialisations:

    zero     weights and bias 0: every class equally likely, the first step already useful
    classes  weights N(0, 2 / C), bias -ln 99: what VPT's published numbers were made with
             (Jia et al. 2022, arXiv 2203.12119; its code takes the number of classes for fan-out)
    normal   weights N(0, 0.02^2), bias U(-1, 1) / sqrt(D): SA2VP's code (arXiv 2312.10376)
    normal_0.01, normal_0.02   weights N(0, 0.01^2) or N(0, 0.02^2), bias 0: networks trained from
             scratch, as in MS-VP's code (arXiv 2512.03663)

Logits are float32 whatever the backbone computes in.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.core.errors import unknown
from vpjax.nn.context import Context

SPREADS = {"normal_0.01": 0.01, "normal_0.02": 0.02}
INITS = ("zero", "classes", "normal", *SPREADS)


class Head(nnx.Module):
    """A classification head: features B D -> logits B C.

    Args:
        dim: D.
        num_classes: C.
        hidden: number of hidden layers, each D wide.
        init: one of `INITS`, see above.
        norm: whether a BatchNorm without scale and bias comes first (He et al. 2021, arXiv
            2111.06377).
        rngs: draws the weights.

    Raises:
        UserError: if `init` is unknown.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        hidden: int,
        init: str,
        norm: bool = False,
        rngs: nnx.Rngs,
    ):
        if init not in INITS:
            raise unknown("head_init", init, INITS)
        plain = {"use_scale": False, "use_bias": False, "momentum": 0.9, "epsilon": 1e-6}
        self.norm = nnx.BatchNorm(dim, **plain, rngs=rngs) if norm else None
        self.hidden = nnx.List(HiddenLayer(dim, rngs=rngs) for _ in range(hidden))
        shape = (dim, num_classes)
        if init == "zero":
            kernel, bias = jnp.zeros(shape), jnp.zeros(num_classes)
        elif init in SPREADS:
            kernel = SPREADS[init] * jax.random.normal(rngs.params(), shape)
            bias = jnp.zeros(num_classes)
        elif init == "normal":
            kernel = 0.02 * jax.random.normal(rngs.params(), shape)
            bound = 1 / math.sqrt(dim)
            bias = jax.random.uniform(rngs.params(), (num_classes,), minval=-bound, maxval=bound)
        else:
            kernel = math.sqrt(2 / num_classes) * jax.random.normal(rngs.params(), shape)
            bias = jnp.full(num_classes, -math.log(99.0), jnp.float32)
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(bias)

    def __call__(self, features: Float[Array, "B D"], ctx: Context) -> Float[Array, "B C"]:
        x = features.astype(jnp.float32)
        if self.norm:
            x = batch_norm(self.norm, x, ctx)
        for i, layer in enumerate(self.hidden):
            x = layer(x, ctx, tag=f"head.{i}")
        return x @ self.kernel[...] + self.bias[...]


class HiddenLayer(nnx.Module):
    """A hidden layer of the head: dense of equal width, ReLU, BatchNorm, dropout of 0.1."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        std = math.sqrt(2 / dim)
        bound = 1 / math.sqrt(dim)
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (dim, dim)))
        self.bias = nnx.Param(
            jax.random.uniform(rngs.params(), (dim,), minval=-bound, maxval=bound)
        )
        self.norm = nnx.BatchNorm(dim, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: Float[Array, "B D"], ctx: Context, tag: str) -> Float[Array, "B D"]:
        x = jax.nn.relu(x @ self.kernel[...] + self.bias[...])
        return ctx.dropout(batch_norm(self.norm, x, ctx), 0.1, tag)


def batch_norm(norm: nnx.BatchNorm, x: Float[Array, "B D"], ctx: Context) -> Float[Array, "B D"]:
    """Return x normalised, by the batch's real images in training."""
    mask = None if ctx.mask is None else ctx.mask[:, None]
    return norm(x, use_running_average=ctx.key is None, mask=mask)
