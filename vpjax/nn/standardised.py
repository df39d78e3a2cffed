"""Convolutions whose kernels are standardised, and group normalisation, of Big Transfer's ResNets.

    kernel -> (kernel - mean) / (sqrt(variance + var_eps) + std_eps)     of each output channel

Qiao et al. 2019, arXiv 1903.10520. Google's program for hybrids adds its epsilon to the standard
deviation, other programs to the variance. Padding is "centred", as in torch, or "same", as in
TensorFlow, which pads even images with stride 2 on one side only.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.core.errors import UserError, unknown

PADDINGS = ("centred", "same")


class StdConv(nnx.Module):
    """A 2-D convolution with a standardised kernel, without bias: B H W C -> B h w D.

    Args:
        channels: C.
        dim: D.
        window: edge of the square kernel in pixels, odd.
        stride: pixels between two outputs; h = ceil(H / stride).
        padding: one of `PADDINGS`.
        var_eps: added to the variance.
        std_eps: added to the standard deviation.
        rngs: draws the kernel by He's rule (fan-out).

    Raises:
        UserError: for an unknown padding.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        window: int,
        *,
        stride: int = 1,
        padding: str = "centred",
        var_eps: float = 1e-8,
        std_eps: float = 0.0,
        rngs: nnx.Rngs,
    ):
        if padding not in PADDINGS:
            raise unknown("padding", padding, PADDINGS)
        draw = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        self.kernel = nnx.Param(draw(rngs.params(), (window, window, channels, dim)))
        self.stride, self.padding = stride, padding
        self.var_eps, self.std_eps = var_eps, std_eps

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        edge = self.kernel.shape[0] // 2
        return jax.lax.conv_general_dilated(
            x,
            self.standardised().astype(x.dtype),
            (self.stride, self.stride),
            "SAME" if self.padding == "same" else [(edge, edge)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def standardised(self) -> Float[Array, "H W C D"]:
        """Return the kernel as it is used."""
        kernel = self.kernel[...].astype(jnp.float32)
        centred = kernel - kernel.mean((0, 1, 2))
        deviation = jnp.sqrt(jnp.square(centred).mean((0, 1, 2)) + self.var_eps)
        return centred / (deviation + self.std_eps)


class GroupNorm(nnx.Module):
    """Normalisation over all cells of groups of channels; statistics in float32.

    Args:
        dim: D, channels.
        groups: of neighbouring channels.
        eps: added to the variance.

    Raises:
        UserError: if the groups do not divide the channels.
    """

    def __init__(self, dim: int, *, groups: int = 32, eps: float = 1e-5):
        if dim % groups:
            raise UserError(f"group normalisation: {dim} channels do not divide into {groups}")
        self.scale = nnx.Param(jnp.ones(dim))
        self.bias = nnx.Param(jnp.zeros(dim))
        self.groups, self.eps = groups, eps

    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        batch, h, w, dim = x.shape
        wide = x.astype(jnp.float32).reshape(batch, h, w, self.groups, -1)
        centred = wide - wide.mean((1, 2, 4), keepdims=True)
        variance = jnp.square(centred).mean((1, 2, 4), keepdims=True)
        y = (centred * jax.lax.rsqrt(variance + self.eps)).reshape(x.shape)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


def max_pool(x: Float[Array, "B H W C"], padding: str) -> Float[Array, "B h w C"]:
    """Return the maximum of 3 x 3 windows at a stride of 2 pixels; h = ceil(H / 2).

    Args:
        x: a feature map.
        padding: "centred": a frame of zeros, which count, as Big Transfer pads; "same": outside of
            the image nothing counts.
    """
    if padding == "centred":
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    how = "SAME" if padding == "same" else "VALID"
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), how)
