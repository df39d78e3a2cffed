"""CLIP's text encoder: a transformer in which a token attends to itself and those before it.

    ids -> tokens + positions -> blocks, causal -> norm -> end token -> projection

The end token has the largest id, so its position is that of the largest id in a row. Nothing up to
it attends to what follows: padding may be any id, and a batch may be cut at its longest text.
Radford et al. 2021, arXiv 2103.00020. The blocks are those of the vision tower. Embeddings may take
the place of ids, and rows be replaced between blocks (`encode`): so prompts of texts are learnt.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vpjax.backbones.clip_variants import variant as find
from vpjax.core.errors import UserError
from vpjax.nn.attention import attention
from vpjax.nn.context import EVALUATION, Context
from vpjax.nn.layers import Attention, Block, Dense, LayerNorm
from vpjax.nn.stack import run_layers
from vpjax.nn.tokens import Tokens

WORDS, CONTEXT, DEPTH = 49408, 77, 12  # of every released CLIP


class TextTower(nnx.Module):
    """Token ids to text features `joint_dim` wide.

    Args:
        variant: a size of `vpjax.backbones.clip_variants`, whose numbers replace those not given.
        vocab: number of ids.
        context: number of positions, the most tokens of a text.
        dim: width of tokens.
        mlp_dim: hidden width of MLPs; None: 4 `dim`.
        heads: number of attention heads.
        depth: number of layers.
        joint_dim: width of the features, which image and text share; 0: `dim`, as there is no
            projection.
        eps: of every LayerNorm.
        activation: of MLPs, see `vpjax.nn.activations`.
        layer_scale: whether branches of layers are multiplied by learnt vectors.
        projection_bias: whether the projection has a bias.

    Raises:
        UserError: for an unknown variant or activation, or a width that the heads do not divide.
    """

    def __init__(
        self,
        variant: str = "B/16",
        *,
        vocab: int = WORDS,
        context: int = CONTEXT,
        dim: int | None = None,
        mlp_dim: int | None = None,
        heads: int | None = None,
        depth: int = DEPTH,
        joint_dim: int | None = None,
        eps: float = 1e-5,
        activation: str = "quick_gelu",
        layer_scale: bool = False,
        projection_bias: bool = False,
        rngs: nnx.Rngs,
    ):
        chosen = find(variant)
        dim, heads = dim or chosen.text_dim, heads or chosen.text_heads
        joint_dim = chosen.joint_dim if joint_dim is None else joint_dim
        if dim % heads:
            raise UserError(f"CLIP's text width {dim} does not divide into {heads} heads")
        self.vocab, self.context, self.dim = vocab, context, joint_dim or dim
        draw = lambda std, *shape: std * jax.random.normal(rngs.params(), shape)  # noqa: E731
        self.token_embed = nnx.Param(draw(0.02, vocab, dim))
        self.pos_embed = nnx.Param(draw(0.01, context, dim))
        same = {"eps": eps, "activation": activation, "layer_scale": layer_scale}
        self.layers = nnx.List(
            _Block(dim, heads, mlp_dim or 4 * dim, **same, rngs=rngs) for _ in range(depth)
        )
        self.norm = LayerNorm(dim, eps=eps)
        width, bias = (joint_dim,), projection_bias
        self.projection = Dense((dim,), width, bias=bias, rngs=rngs) if joint_dim else None

    def __call__(
        self, ids: Int[Array | np.ndarray, "N T"], dtype: jax.typing.DTypeLike = jnp.float32
    ) -> Float[Array, "N D"]:
        """Return text features, not normalised, computed in `dtype`."""
        return self.encode(self.token_embed[...][ids], ids.argmax(-1), dtype=dtype)

    def embed(
        self, ids: Int[Array | np.ndarray, "N T"], dtype: jax.typing.DTypeLike = jnp.float32
    ) -> Tokens:
        """Return tokens with their positions, without a grid."""
        return self.placed(self.token_embed[...][ids], dtype)

    def placed(self, x: Float[Array, "N T W"], dtype: jax.typing.DTypeLike) -> Tokens:
        """Return embeddings with their positions, without a grid."""
        x = x + self.pos_embed[...][: x.shape[1]]
        return Tokens(x.astype(dtype), num_prefix_tokens=x.shape[1], grid=(0, 0))

    def encode(
        self,
        x: Float[Array, "N T W"],
        ends: Int[Array | np.ndarray, " N"],
        rows: Mapping[int, Float[Array, "P W"]] | None = None,
        dtype: jax.typing.DTypeLike = jnp.float32,
        remat: str = "none",
    ) -> Float[Array, "N D"]:
        """Return the features of texts whose embeddings are given, not normalised.

        Args:
            x: embeddings of tokens, without positions.
            ends: the place of each text's end token.
            rows: {layer: P W}: what tokens 1 .. P are replaced by before that layer.
            dtype: of computation.
            remat: what the backward pass recomputes, see `vpjax.nn.stack.run_layers`.
        """
        rows = rows or {}

        def step(layer, tokens, ctx):
            if ctx.layer in rows:
                tokens = tokens.overwrite(rows[ctx.layer], at=1)
            return layer(tokens, ctx)

        tokens = run_layers(self.layers, self.placed(x, dtype), step, EVALUATION, remat=remat)
        x = self.norm(tokens.x[jnp.arange(x.shape[0]), ends])
        return self.projection(x) if self.projection else x


class _Block(Block):
    def __init__(self, dim: int, heads: int, mlp_dim: int, *, rngs: nnx.Rngs, **inherited):
        super().__init__(dim, heads, mlp_dim, rngs=rngs, **inherited)
        self.attn = _CausalAttention(dim, heads, rngs=rngs)


class _CausalAttention(Attention):
    """Token i attends to 0 .. i."""

    def __call__(
        self,
        x: Float[Array, "B L D"],
        ctx: Context,
        extra_kv: Float[Array, "... P D"] | None = None,
        num_outputs: int | None = None,
    ) -> Float[Array, "B K D"]:
        if extra_kv is not None:
            raise ValueError("extra_kv has no place in a causal order")
        return super().__call__(x, ctx, num_outputs=num_outputs)

    def mix(
        self,
        q: Float[Array, "B K N d"],
        k: Float[Array, "B S N d"],
        v: Float[Array, "B S N d"],
    ) -> Float[Array, "B K N d"]:
        seen = jnp.arange(k.shape[1]) <= jnp.arange(q.shape[1])[:, None]  # K S
        bias = jnp.where(seen, 0.0, -jnp.inf).astype(jnp.float32)
        return attention(q, k, v, bias=jnp.broadcast_to(bias, (1, q.shape[2], *bias.shape)))
