"""Pooling of tokens by attention: one learnt query reads them, an MLP follows.

    y = out(attention(query(probe), key(x), value(x)))         features = y + mlp(norm(y))

"MAP" of Zhai et al. 2022, "Scaling Vision Transformers", arXiv 2106.04560; SigLIP pools with it.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.nn.attention import attention
from vpjax.nn.context import EVALUATION
from vpjax.nn.layers import Attention, LayerNorm, Mlp
from vpjax.nn.tokens import over_batch


class AttentionPool(nnx.Module):
    """Tokens B L D -> features B D.

    Args:
        dim: D.
        heads: number of attention heads.
        mlp_dim: hidden width of the MLP.
        eps: of the norm.
        activation: of the MLP, a name of `vpjax.nn.activations.ACTIVATIONS`.
        rngs: draws all weights.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_dim: int,
        *,
        eps: float = 1e-6,
        activation: str = "gelu",
        rngs: nnx.Rngs,
    ):
        self.probe = nnx.Param(dim**-0.5 * jax.random.normal(rngs.params(), (1, dim)))
        self.attn = Attention(dim, heads, rngs=rngs)
        self.norm = LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, mlp_dim, activation=activation, rngs=rngs)

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B D"]:
        probe = self.probe[...].astype(x.dtype)
        q = over_batch(self.attn.query(probe).reshape(1, -1), x.shape[0])
        q = q.reshape(x.shape[0], 1, *self.attn.query.kernel.shape[1:])  # B 1 N d
        y = self.attn.out(attention(q, self.attn.key(x), self.attn.value(x)))  # B 1 D
        return jnp.squeeze(y + self.mlp(self.norm(y), EVALUATION), axis=1)
