"""Side-tuning: a small network beside the frozen one, and a learned blend of their features.

    f = s backbone(x) + (1 - s) W side(x)          s = sigmoid(alpha), alpha starts at 0

Zhang et al. 2020 (arXiv 1912.13503), in the form VPT compares with (arXiv 2203.12119): the side
network is AlexNet's convolutions (Krizhevsky 2014, arXiv 1404.5997, torchvision's widths) on the
same image, pooled to 6 x 6. All of it trains; published runs start it from ImageNet weights.
"""

import logging
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.methods.base import Method
from vpjax.nn.context import Context
from vpjax.weights.download import fetch
from vpjax.weights.formats import read

log = logging.getLogger(__name__)

# kernel edge, stride, padding, whether a 3 x 3 max pooling of stride 2 follows, torchvision's index
CONVS = ((11, 4, 2, True, 0), (5, 1, 2, True, 3), (3, 1, 1, False, 6), (3, 1, 1, False, 8))
CONVS += ((3, 1, 1, True, 10),)
SMALLEST = 63  # pixels: below, nothing is left after the last pooling
POOLED = 6


class Side(Method):
    """Side-tuning: AlexNet beside a frozen backbone, and a learnt blend of both features.

    Args:
        side_weights: path, address or catalogue name ("alexnet_in1k") of torchvision's AlexNet; "":
            random weights. Images smaller than 63 pixels are enlarged for the side network, as
            AlexNet shrinks its input 32 times.
        widths: channels of the five convolutions.

    Raises:
        UserError: if there are not five widths, or `side_weights` does not fit them.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        side_weights: str = "",
        widths: tuple[int, ...] = (64, 192, 384, 256, 256),
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        if len(widths) != len(CONVS):
            raise UserError(
                f"widths is {widths}; give {len(CONVS)} numbers, one a convolution of AlexNet"
            )
        channels = (3, *widths)
        self.convs = nnx.List(
            _Conv(channels[i], channels[i + 1], edge, rngs=rngs)
            for i, (edge, *_) in enumerate(CONVS)
        )
        inputs = POOLED * POOLED * widths[-1]
        bound = 1 / math.sqrt(inputs)
        self.projection = nnx.Param(
            jax.random.uniform(rngs.params(), (inputs, backbone.dim), minval=-bound, maxval=bound)
        )
        self.alpha = nnx.Param(jnp.zeros(()))
        if side_weights:
            self._load(side_weights)
        else:
            log.warning(
                "side.Side: AlexNet starts from random weights; published runs start from ImageNet "
                "weights (method.side_weights=alexnet_in1k)"
            )

    def start(self, backbone: Backbone, images: Float[Array, "B H W C"], ctx: Context) -> Any:
        """Return the backbone's state and the side network's features (B D)."""
        return super().start(backbone, images, ctx), self.side(images)

    def step(self, layer: nnx.Module, state: Any, ctx: Context) -> Any:
        """Apply a layer of the backbone; the side network's features are passed on."""
        tokens, side = state
        return super().step(layer, tokens, ctx), side

    def predict(self, backbone: Backbone, state: Any, ctx: Context) -> dict[str, Array]:
        """Return the outputs for the blend of both features."""
        tokens, side = state
        share = jax.nn.sigmoid(self.alpha[...])
        features = share * backbone.pool(tokens) + (1 - share) * side
        return {"logits": self.head(features, ctx), "features": features}

    def side(self, images: Float[Array, "B H W C"]) -> Float[Array, "B D"]:
        """Return the features of the side network: AlexNet's convolutions, pooled, projected."""
        x = images
        edges = tuple(max(SMALLEST, edge) for edge in x.shape[1:3])
        if edges != x.shape[1:3]:
            x = jax.image.resize(x, (x.shape[0], *edges, x.shape[3]), "linear").astype(x.dtype)
        for conv, (_, stride, padding, pool, _) in zip(self.convs, CONVS, strict=True):
            x = jax.nn.relu(conv(x, stride, padding))
            if pool:
                x = nnx.max_pool(x, (3, 3), (2, 2))
        rows, columns = (jnp.asarray(_bins(size), x.dtype) for size in x.shape[1:3])
        x = jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x)  # B 6 6 C
        x = x.reshape(x.shape[0], -1)
        return x @ self.projection[...].astype(x.dtype)

    def _load(self, where: str) -> None:
        path = fetch(where)
        arrays = read(path)
        for conv, (*_, index) in zip(self.convs, CONVS, strict=True):
            name = f"features.{index}."
            kernel, bias = arrays.get(name + "weight"), arrays.get(name + "bias")
            if kernel is None or kernel.transpose(2, 3, 1, 0).shape != conv.kernel.shape:
                raise UserError(
                    f"side_weights {path}: found no {name}weight of shape {conv.kernel.shape} "
                    "(height, width, in, out); expected torchvision's AlexNet"
                )
            conv.kernel[...] = jnp.asarray(kernel.transpose(2, 3, 1, 0), jnp.float32)
            conv.bias[...] = jnp.asarray(bias, jnp.float32)


class _Conv(nnx.Module):
    def __init__(self, inputs: int, outputs: int, edge: int, *, rngs: nnx.Rngs):
        shape = (edge, edge, inputs, outputs)
        self.kernel = nnx.Param(jax.nn.initializers.he_normal()(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(
        self, x: Float[Array, "B H W C"], stride: int, padding: int
    ) -> Float[Array, "B h w D"]:
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel[...].astype(x.dtype),
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + self.bias[...].astype(x.dtype)


def _bins(size: int) -> np.ndarray:
    """Return the matrix (6 size) of means over 6 nearly equal, possibly overlapping ranges."""
    edges: Sequence[tuple[int, int]] = [
        (i * size // POOLED, -(-(i + 1) * size // POOLED)) for i in range(POOLED)
    ]
    cells = np.arange(size)
    return np.stack([(cells >= a) & (cells < b) for a, b in edges]) / [[b - a] for a, b in edges]
