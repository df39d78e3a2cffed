"""Activations of an MLP, by name.

    gelu         x Phi(x), exactly (erf)
    quick_gelu   x sigmoid(1.702 x)             OpenAI's CLIP
    gelu_tanh    x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2          SigLIP

All define their own derivative, which keeps nothing but the input for the backward pass. They are
computed in float32 and returned in the dtype of the input.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Apply the exact GELU, x Phi(x), to each element; the backward pass keeps x only."""
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _gelu_backward(x, g):
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) / math.sqrt(2 * math.pi)
    slope = _normal_cdf(wide) + wide * density
    return ((slope * g.astype(jnp.float32)).astype(x.dtype),)


def _normal_cdf(x):
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


@jax.custom_vjp
def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Apply CLIP's approximate GELU, x sigmoid(1.702 x); the backward pass keeps x only."""
    wide = x.astype(jnp.float32)
    return (wide * jax.nn.sigmoid(1.702 * wide)).astype(x.dtype)


def _quick_gelu_backward(x, g):
    wide = x.astype(jnp.float32)
    gate = jax.nn.sigmoid(1.702 * wide)
    slope = gate * (1 + 1.702 * wide * (1 - gate))
    return ((slope * g.astype(jnp.float32)).astype(x.dtype),)


quick_gelu.defvjp(lambda x: (quick_gelu(x), x), _quick_gelu_backward)


@jax.custom_vjp
def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Apply the GELU by its tanh approximation; the backward pass keeps x only."""
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1 + jnp.tanh(_inner(wide)))).astype(x.dtype)


def _gelu_tanh_backward(x, g):
    wide = x.astype(jnp.float32)
    t = jnp.tanh(_inner(wide))
    inner_slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * wide * wide)
    slope = 0.5 * (1 + t) + 0.5 * wide * (1 - t * t) * inner_slope
    return ((slope * g.astype(jnp.float32)).astype(x.dtype),)


def _inner(x):
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)


gelu_tanh.defvjp(lambda x: (gelu_tanh(x), x), _gelu_tanh_backward)

ACTIVATIONS = {"gelu": gelu, "quick_gelu": quick_gelu, "gelu_tanh": gelu_tanh}
