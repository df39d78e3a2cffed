"""Blocks shared by backbones, pre-norm transformers first of all.

    x = x + scale1 attn(norm1(x))   attn: query, key, value, out
    x = x + scale2 mlp(norm2(x))    mlp:  fc1, gelu (or another of ACTIVATIONS), fc2; or gated

A block can do part of its work only, which saves time without changing any result:

    extra_kv       tokens that are attended to but not updated: norm1, key and value only
    num_outputs=n  only the first n tokens are returned: queries, projection and mlp of those only

Blocks compute in the dtype of the tokens, statistics and softmax in float32. Parameters are cast
where they are used. Norms and activations define their own derivatives, which keep one array where
automatic differentiation keeps two to five.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.core.errors import UserError, unknown
from vpjax.nn.activations import ACTIVATIONS
from vpjax.nn.attention import attention
from vpjax.nn.context import Context
from vpjax.nn.relative_bias import bias_of, table_length
from vpjax.nn.rope import Rope
from vpjax.nn.tokens import Tokens

MLPS = ("mlp", "swiglu", "swiglu_norm")
LAYER_SCALE = 1e-5  # at a random start


class Dense(nnx.Module):
    """A linear layer, x @ kernel + bias, over the last axes of x.

    Kernels of attention are (D, N, d) and (N, d, D), as in Google's checkpoints.

    Args:
        features_in: sizes of the axes that are summed over, the last ones of x.
        features_out: sizes of the axes that take their place.
        bias: whether a bias, zero at the start, is added.
        rngs: draws the kernel by Xavier's rule (uniform).
    """

    def __init__(
        self,
        features_in: tuple[int, ...],
        features_out: tuple[int, ...],
        *,
        bias: bool = True,
        rngs: nnx.Rngs,
    ):
        fan_in, fan_out = math.prod(features_in), math.prod(features_out)
        bound = (6 / (fan_in + fan_out)) ** 0.5
        shape = (*features_in, *features_out)
        self.kernel = nnx.Param(
            jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)
        )
        self.bias = nnx.Param(jnp.zeros(features_out)) if bias else None
        self.inputs = len(features_in)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        kernel = self.kernel[...]
        lead, inner = x.shape[: x.ndim - self.inputs], kernel.shape[self.inputs :]
        y = x.reshape(*lead, -1) @ kernel.reshape(-1, math.prod(inner)).astype(x.dtype)
        y = y.reshape(*lead, *inner)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer normalisation of the last axis (D); statistics in float32."""

    def __init__(self, dim: int, *, eps: float = 1e-6):
        self.scale = nnx.Param(jnp.ones(dim))
        self.bias = nnx.Param(jnp.zeros(dim))
        self.eps = eps

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        return layer_norm(x, self.scale[...], self.bias[...], self.eps)


class Attention(nnx.Module):
    """Multi-head self-attention: query, key and value projections, attention, output projection.

    Positions that act in attention, `rope` and `relative_bias`, are those of the last h w tokens.

    Args:
        dim: D, width of the tokens.
        heads: N; a head is D / N wide.
        implementation: see `vpjax.nn.attention`.
        dropout: rate, of the probabilities and of the result; needs the implementation "xla".
        qkv_bias: whether query, key and value have biases; "qv": all but the key.
        qk_norm: whether queries and keys are normalised, each head by itself.
        out_norm: whether there is a norm before the output projection.
        eps: of these norms.
        rope: rotary positions.
        relative_bias: the grid of a learnt bias of scores, see `vpjax.nn.relative_bias`; needs the
            implementation "xla".
        rngs: draws the projections.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        implementation: str = "xla",
        dropout: float = 0.0,
        qkv_bias: bool | str = True,
        qk_norm: bool = False,
        out_norm: bool = False,
        eps: float = 1e-6,
        rope: Rope | None = None,
        relative_bias: tuple[int, int] | None = None,
        rngs: nnx.Rngs,
    ):
        if qkv_bias not in (True, False, "qv"):
            raise UserError(f"qkv_bias is {qkv_bias!r}; give True, False, or 'qv' for no key bias")
        width = dim // heads
        self.query = Dense((dim,), (heads, width), bias=bool(qkv_bias), rngs=rngs)
        self.key = Dense((dim,), (heads, width), bias=qkv_bias is True, rngs=rngs)
        self.value = Dense((dim,), (heads, width), bias=bool(qkv_bias), rngs=rngs)
        self.out = Dense((heads, width), (dim,), rngs=rngs)
        self.query_norm = LayerNorm(width, eps=eps) if qk_norm else None
        self.key_norm = LayerNorm(width, eps=eps) if qk_norm else None
        self.out_norm = LayerNorm(dim, eps=eps) if out_norm else None
        self.implementation, self.dropout = implementation, dropout
        self.rope, self.bias_grid = rope, relative_bias
        count = relative_bias and table_length(relative_bias)
        self.relative_bias = nnx.Param(jnp.zeros((count, heads))) if count else None

    def __call__(
        self,
        x: Float[Array, "B L D"],
        ctx: Context,
        extra_kv: Float[Array, "... P D"] | None = None,
        num_outputs: int | None = None,
    ) -> Float[Array, "B K D"]:
        """Return what the first K = `num_outputs` tokens (None: all) gather from all of them.

        The tap "attn.qkv" sees queries, keys and values as scores are computed from them, a tuple
        (B K N d, B S N d, B S N d): further keys and values go first, a factor of the queries is
        one of the scores.

        Args:
            x: normalised tokens.
            ctx: of the layer.
            extra_kv: normalised tokens (P D, or B P D) that serve as further keys and values.
            num_outputs: K.
        """
        q = ctx.tap("attn.query", self.query(x[:, :num_outputs]), x, self.query)  # B K N d
        k = ctx.tap("attn.key", self.key(x), x, self.key)  # B L N d
        v = ctx.tap("attn.value", self.value(x), x, self.value)
        q, k = self.place(q, k, x.shape[1])
        if extra_kv is not None:
            # Projected before they are repeated over the batch: once where they have no batch axis.
            key = ctx.tap("attn.key", self.key(extra_kv), extra_kv, self.key)
            k = join(self.key_norm(key) if self.key_norm else key, k)
            v = join(ctx.tap("attn.value", self.value(extra_kv), extra_kv, self.value), v)
        q, k, v = ctx.tap("attn.qkv", (q, k, v), x)
        bias = drop = None
        if self.dropout:
            drop = lambda p: ctx.backbone_dropout(p, self.dropout, "attn.weights")  # noqa: E731
        if self.bias_grid:
            bias = bias_of(
                self.relative_bias[...], self.bias_grid, x.shape[1], k.shape[1] - x.shape[1]
            )
            bias = bias[:, :, :num_outputs]
        if drop or bias is not None:
            y = attention(q, k, v, self.implementation, bias, drop)
        else:
            y = self.mix(q, k, v)
        y = self.normed(y)
        y = ctx.tap("attn.out", self.out(y), y, self.out)
        return ctx.backbone_dropout(y, self.dropout, "attn.out")

    def place(
        self, q: Float[Array, "#B K N d"], k: Float[Array, "B L N d"], length: int
    ) -> tuple[Float[Array, "#B K N d"], Float[Array, "B L N d"]]:
        """Return projected queries and keys as scores are computed from them.

        They are normalised, and turned by the rotary positions, where the layer has those.

        Args:
            q: of the first K tokens.
            k: of all tokens.
            length: L, number of all tokens.
        """
        if self.query_norm:
            q, k = self.query_norm(q), self.key_norm(k)
        if self.rope:
            first = length - math.prod(self.rope.grid)
            q, k = self.rope(q, first), self.rope(k, first)
        return q, k

    def project(self, y: Float[Array, "B K N d"]) -> Float[Array, "B K D"]:
        """Return the output projection of what the heads gathered, after its norm if it has one."""
        return self.out(self.normed(y))

    def normed(self, y: Float[Array, "B K N d"]) -> Float[Array, "B K N d"]:
        """Return what the heads gathered after the norm of it, where the layer has one."""
        if self.out_norm:
            y = self.out_norm(y.reshape(*y.shape[:2], -1)).reshape(y.shape)
        return y

    def mix(
        self,
        q: Float[Array, "B K N d"],
        k: Float[Array, "B S N d"],
        v: Float[Array, "B S N d"],
    ) -> Float[Array, "B K N d"]:
        """Apply attention of the K queries to all S keys; subclasses restrict who sees whom."""
        return attention(q, k, v, self.implementation)


class Mlp(nnx.Module):
    """The MLP of a block, fc2(activation(fc1(x))).

    Args:
        dim: D, width of the tokens.
        hidden: width between the two layers.
        dropout: rate, behind each of the two layers.
        activation: a name of `ACTIVATIONS`; "gelu" is the exact one.
        rngs: draws both layers.

    Raises:
        UserError: if the activation is unknown.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        dropout: float = 0.0,
        activation: str = "gelu",
        rngs: nnx.Rngs,
    ):
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        self.fc1 = Dense((dim,), (hidden,), rngs=rngs)
        self.fc2 = Dense((hidden,), (dim,), rngs=rngs)
        self.dropout, self.activation = dropout, activation

    def __call__(self, x: Float[Array, "B L D"], ctx: Context) -> Float[Array, "B L D"]:
        h = ACTIVATIONS[self.activation](ctx.tap("mlp.fc1", self.fc1(x), x, self.fc1))
        h = ctx.backbone_dropout(h, self.dropout, "mlp.fc1")
        y = ctx.tap("mlp.fc2", self.fc2(h), h, self.fc2)
        return ctx.backbone_dropout(y, self.dropout, "mlp.fc2")


class SwiGlu(nnx.Module):
    """An MLP whose hidden values pass a gate, fc2(norm(silu(gate(x)) fc1(x))).

    Shazeer 2020, arXiv 2002.05202; the norm is EVA-02's.

    Args:
        dim: D, width of the tokens.
        hidden: width of the gate and of what passes it.
        dropout: rate, of the gated values and of the result.
        norm: whether the gated values are normalised.
        eps: of that norm.
        rngs: draws all layers.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        dropout: float = 0.0,
        norm: bool = False,
        eps: float = 1e-6,
        rngs: nnx.Rngs,
    ):
        self.gate = Dense((dim,), (hidden,), rngs=rngs)
        self.fc1 = Dense((dim,), (hidden,), rngs=rngs)
        self.norm = LayerNorm(hidden, eps=eps) if norm else None
        self.fc2 = Dense((hidden,), (dim,), rngs=rngs)
        self.dropout = dropout

    def __call__(self, x: Float[Array, "B L D"], ctx: Context) -> Float[Array, "B L D"]:
        h = jax.nn.silu(self.gate(x)) * ctx.tap("mlp.fc1", self.fc1(x), x, self.fc1)
        h = ctx.backbone_dropout(h, self.dropout, "mlp.fc1")
        h = self.norm(h) if self.norm else h
        y = ctx.tap("mlp.fc2", self.fc2(h), h, self.fc2)
        return ctx.backbone_dropout(y, self.dropout, "mlp.fc2")


class Block(nnx.Module):
    """A pre-norm transformer layer: tokens, context -> tokens.

    Args:
        dim: D, width of the tokens.
        heads: number of attention heads.
        mlp_dim: hidden width of the MLP.
        dropout: rate in the MLP.
        attention_dropout: rate in the attention.
        drop_path: probability that a branch of an image is dropped (stochastic depth).
        eps: of all norms.
        activation: of the MLP "mlp", a name of `ACTIVATIONS`.
        attention: implementation, see `vpjax.nn.attention`.
        mlp: a name of `MLPS`.
        layer_scale: whether a branch is multiplied by a learnt vector; Touvron et al. 2021, arXiv
            2103.17239.
        rngs: draws all weights.
        of_attention: further options of `Attention`.

    Raises:
        UserError: for an unknown MLP or activation.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_dim: int,
        *,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        eps: float = 1e-6,
        activation: str = "gelu",
        attention: str = "xla",
        mlp: str = "mlp",
        layer_scale: bool = False,
        rngs: nnx.Rngs,
        **of_attention,
    ):
        if mlp not in MLPS:
            raise unknown("mlp", mlp, MLPS)
        own = {"implementation": attention, "dropout": attention_dropout, "eps": eps}
        self.norm1 = LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, **own, **of_attention, rngs=rngs)
        self.norm2 = LayerNorm(dim, eps=eps)
        if mlp == "mlp":
            self.mlp = Mlp(dim, mlp_dim, dropout=dropout, activation=activation, rngs=rngs)
        else:
            norm = mlp == "swiglu_norm"
            self.mlp = SwiGlu(dim, mlp_dim, dropout=dropout, norm=norm, eps=eps, rngs=rngs)
        self.scale1 = nnx.Param(jnp.full(dim, LAYER_SCALE)) if layer_scale else None
        self.scale2 = nnx.Param(jnp.full(dim, LAYER_SCALE)) if layer_scale else None
        self.drop_path = drop_path

    def __call__(
        self,
        tokens: Tokens,
        ctx: Context,
        extra_kv: Float[Array, "... P D"] | None = None,
        num_outputs: int | None = None,
    ) -> Tokens:
        """Return the first `num_outputs` tokens (None: all) after the layer.

        The taps "attn" and "mlp" see what is added to the tokens, after layer scale and drop path;
        "attn.residual" and "mlp.residual" the tokens after and before that.

        Args:
            tokens: what enters the layer.
            ctx: of the layer.
            extra_kv: tokens (P D, or B P D) that are attended to but not updated.
            num_outputs: how many leading tokens are needed.
        """
        x = tokens.x
        y = ctx.tap("norm1", self.norm1(x), x)
        if extra_kv is not None:
            extra_kv = extra_kv.astype(x.dtype)
            extra_kv = ctx.tap("norm1", self.norm1(extra_kv), extra_kv)
        tokens = tokens.first(num_outputs)
        o = self.scaled(self.attn(y, ctx, extra_kv, num_outputs), "scale1")
        o = ctx.tap("attn", ctx.drop_path(o, self.drop_path, "attn"), y)
        x = ctx.tap("attn.residual", tokens.x + o, tokens.x)
        y = ctx.tap("norm2", self.norm2(x), x)
        m = self.scaled(self.mlp(y, ctx), "scale2")
        m = ctx.tap("mlp", ctx.drop_path(m, self.drop_path, "mlp"), y)
        x = ctx.tap("mlp.residual", x + m, x)
        return Tokens(x, tokens.num_prefix_tokens, tokens.grid)

    def scaled(self, y: Float[Array, "B L D"], name: str) -> Float[Array, "B L D"]:
        """Return a branch times the layer scale of that name, where the layer has one."""
        scale = getattr(self, name, None)
        return y if scale is None else y * scale[...].astype(y.dtype)


class PatchEmbed(nnx.Module):
    """Cut images into patches and project each linearly: B H W C -> B h w D.

    Pixels right of or below the last whole patch are dropped, as by a convolution without padding.

    Args:
        patch_size: height and width in pixels.
        dim: D.
        channels: C.
        bias: whether a bias is added.
        rngs: draws the kernel (LeCun's rule).
    """

    def __init__(
        self, patch_size: tuple[int, int], dim: int, *, channels=3, bias=True, rngs: nnx.Rngs
    ):
        self.kernel = nnx.Param(
            jax.nn.initializers.lecun_normal()(
                rngs.params(), (math.prod(patch_size) * channels, dim)
            ).reshape(*patch_size, channels, dim)
        )
        self.bias = nnx.Param(jnp.zeros(dim)) if bias else None

    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        ph, pw, channels, dim = self.kernel.shape
        batch, height, width, _ = images.shape
        h, w = height // ph, width // pw
        x = images[:, : h * ph, : w * pw].reshape(batch, h, ph, w, pw, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, h, w, -1)  # B h w (ph pw C)
        kernel = self.kernel[...].reshape(-1, dim).astype(x.dtype)
        x = x @ kernel
        return x if self.bias is None else x + self.bias[...].astype(x.dtype)


def join(extra_kv: Float[Array, "... P N d"], own: Float[Array, "B L N d"]) -> Array:
    """Return keys or values, B (P + L) N d, with further ones (P N d or B P N d) before them."""
    extra_kv = jnp.broadcast_to(extra_kv, (own.shape[0], *extra_kv.shape[-3:]))
    return jnp.concatenate([extra_kv, own], axis=1)  # B (P + L) N d


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _normalise(x, eps):
    return _normalise_forward(x, eps)[0]


def _normalise_forward(x, eps):
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)
    y = (centred * inverse).astype(x.dtype)
    return y, (y, inverse)


def _normalise_backward(eps, residual, g):
    y, inverse = (r.astype(jnp.float32) for r in residual)
    wide = g.astype(jnp.float32)
    dx = wide - wide.mean(-1, keepdims=True) - y * (wide * y).mean(-1, keepdims=True)
    return ((inverse * dx).astype(g.dtype),)


_normalise.defvjp(_normalise_forward, _normalise_backward)


def layer_norm(
    x: Float[Array, "... D"], scale: Float[Array, " D"], bias: Float[Array, " D"], eps: float
) -> Float[Array, "... D"]:
    """Return (x - mean) / sqrt(variance + eps) * scale + bias over the last axis.

    The backward pass keeps the normalised x only. The affine part is differentiated as usual, so
    scale and bias may train or not.
    """
    y = _normalise(x, eps)
    return y * scale.astype(x.dtype) + bias.astype(x.dtype)
