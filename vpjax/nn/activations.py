"""Activations of an MLP, by name.

    gelu         x Phi(x), exactly (erf)
    quick_gelu   x sigmoid(1.702 x)             OpenAI's CLIP

Both define their own derivative, which keeps nothing but the input for the backward pass. They are
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

ACTIVATIONS = {"gelu": gelu, "quick_gelu": quick_gelu}
