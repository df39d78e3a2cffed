"""Pieces of convolutional networks.

    tokens B (h w) D  ->  feature map B h w D  ->  convolution, norm  ->  tokens

Feature maps travel between layers as Tokens without prefix tokens; a layer opens with `to_map` and
ends with `to_tokens`. Axes are in the order B H W C, kernels H W in out.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.core.errors import UserError
from vpjax.nn.context import Context
from vpjax.nn.tokens import Tokens


class Conv(nnx.Module):
    """A 2-D convolution with zero padding: B H W C -> B h w D, h = ceil(H / stride).

    Args:
        channels: C.
        dim: D.
        window: edge of the square kernel in pixels, odd; it is centred on the pixel.
        stride: pixels between two outputs.
        groups: groups of channels that are convolved separately; C: depthwise.
        bias: whether a bias is added.
        rngs: draws the kernel by He's rule (fan-out).
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        window: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        rngs: nnx.Rngs,
    ):
        draw = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        self.kernel = nnx.Param(draw(rngs.params(), (window, window, channels // groups, dim)))
        self.bias = nnx.Param(jnp.zeros(dim)) if bias else None
        self.stride, self.groups = stride, groups

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        # "SAME" would pad even images with stride 2 on one side only.
        padding = self.kernel.shape[0] // 2
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel[...].astype(x.dtype),
            (self.stride, self.stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class BatchNorm(nnx.Module):
    """Batch normalisation: (x - mean) / sqrt(variance + eps) * scale + bias, for every channel.

    Mean and variance are running averages, or those of the batch where `ctx.batch_statistics`; the
    batch's then enter the averages with weight `momentum`. As in torch, the batch is normalised
    with the biased variance and the unbiased one enters the average. Under `jit` the batch is the
    whole one, on all devices; images that `ctx.mask` marks as padding do not count.

    Args:
        dim: D, channels.
        eps: added to the variance.
        momentum: weight of a batch in the running averages.
    """

    def __init__(self, dim: int, *, eps: float = 1e-5, momentum: float = 0.1):
        self.scale = nnx.Param(jnp.ones(dim))
        self.bias = nnx.Param(jnp.zeros(dim))
        self.mean = nnx.BatchStat(jnp.zeros(dim))
        self.var = nnx.BatchStat(jnp.ones(dim))
        self.eps, self.momentum = eps, momentum

    def __call__(self, x: Float[Array, "B h w D"], ctx: Context) -> Float[Array, "B h w D"]:
        wide = x.astype(jnp.float32)
        mean, var = self.mean[...], self.var[...]
        if ctx.batch_statistics:
            mean, var, count = _moments(wide, ctx.mask)
            share = jnp.where(count > 0, self.momentum, 0.0)
            for average, value in ((self.mean, mean), (self.var, var * _unbiased(count))):
                average[...] = (1 - share) * average[...] + share * value
        y = (wide - mean) * (jax.lax.rsqrt(var + self.eps) * self.scale[...]) + self.bias[...]
        return y.astype(x.dtype)


def _moments(x: Float[Array, "B h w D"], mask: Array | None) -> tuple[Array, Array, Array]:
    """Mean and variance of every channel, and how many cells they are of."""
    if mask is None:
        return x.mean((0, 1, 2)), x.var((0, 1, 2)), jnp.float32(x.size // x.shape[-1])
    real = mask.astype(x.dtype)[:, None, None, None]
    count = real.sum() * (x.shape[1] * x.shape[2])
    mean = (x * real).sum((0, 1, 2)) / jnp.maximum(count, 1)
    return mean, (jnp.square(x - mean) * real).sum((0, 1, 2)) / jnp.maximum(count, 1), count


def _unbiased(count: Array) -> Array:
    return count / jnp.maximum(count - 1, 1)


def to_map(tokens: Tokens, extra_kv: Array | None = None) -> Float[Array, "B h w D"]:
    """Return the tokens as a feature map.

    Raises:
        UserError: if there are prefix tokens or `extra_kv`, which a convolution cannot use.
    """
    if tokens.num_prefix_tokens or extra_kv is not None:
        raise UserError(
            "a convolutional layer was given prompts as tokens, which need attention. Use prompts "
            "in pixels, or a transformer."
        )
    return tokens.x.reshape(tokens.x.shape[0], *tokens.grid, -1)


def to_tokens(x: Float[Array, "B h w D"]) -> Tokens:
    """Return a feature map as tokens, row by row."""
    batch, h, w, dim = x.shape
    return Tokens(x.reshape(batch, h * w, dim), num_prefix_tokens=0, grid=(h, w))


def max_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """Return the maximum of 3 x 3 windows at a stride of 2 pixels; h = ceil(H / 2)."""
    edges = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), edges)


def global_mean(tokens: Tokens, over: slice | None) -> Float[Array, "B D"]:
    """Return the mean of a feature map over its cells.

    Raises:
        UserError: if `over` selects tokens, as a feature map has no others beside its cells.
    """
    if over is not None:
        raise UserError(
            "the method pools over selected tokens, which a convolutional network does not have: "
            "it has a feature map only. Leave the method's pooling at its default."
        )
    return tokens.x.mean(1)


def last_stages(k: int, stages: Sequence[int]) -> str:
    """Return a regular expression that matches the parameters of the last `k` stages.

    Args:
        k: number of stages, without the first one; 0: the last layer only.
        stages: the stage of every layer, from 0.

    Raises:
        UserError: if there are not that many stages.
    """
    first = stages[-1] + 1 - k
    if not 0 < first <= stages[-1] + 1:
        raise UserError(
            f"partial-{k} does not exist for {stages[-1] + 1} stages of convolutions: 0 is the "
            f"last block, 1 to {stages[-1]} are that many stages from the end"
        )
    last = [i for i, stage in enumerate(stages) if stage >= first] or [len(stages) - 1]
    return rf"layers/({'|'.join(map(str, last))})/.*"
