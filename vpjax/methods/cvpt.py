"""CVPT: image tokens read prompts by cross-attention; no prompt is among the tokens.

    X(x, P) = out(softmax(query(x) key(P)^T / sqrt(d)) value(P))        no norm on x nor on P

    insert 1   x += X(x), then the layer        4   x += mlp(norm2(x) + X(x))
           2   x += attn(norm1(x)) + X(x)       5   x += X(x) after the layer
           3   x += X(x) between attention and MLP

The weights of X are the layer's own, frozen. The published code copies them before training; equal
and frozen, one set is enough. Huang et al. 2024, arXiv 2408.14961.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.methods.base import Method
from vpjax.methods.vpt import check_attention
from vpjax.nn.attention import attention
from vpjax.nn.context import Context
from vpjax.nn.tokens import Tokens, over_batch


class CVPT(Method):
    """Cross visual prompt tuning: prompts of every layer, read by cross-attention.

    Args:
        num_tokens: P, prompts of a layer.
        insert: where in a layer they are read, 1 to 5, see above.
        dropout: rate, of the prompts, separately for each image.

    Raises:
        UserError: for options that do not suit the method or the backbone.
    """

    backbone_dropout = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        num_tokens: int = 10,
        insert: int = 3,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        **inherited,
    ):
        plain = "attn.qkv" in backbone.taps
        check_attention("CVPT", backbone, plain, "plain attention", "a ViT or Swin v1")
        if insert not in range(1, 6):
            raise UserError(f"insert is {insert!r}; give 1 to 5, see vpjax/methods/cvpt.py")
        if num_tokens < 1:
            raise UserError(f"num_tokens is {num_tokens}; CVPT needs at least 1 prompt")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout is {dropout}; it is a probability below 1")
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        self.insert, self.dropout = insert, dropout
        # Xavier's rule on one tensor of all layers, L P D, as torch counts its inputs and outputs.
        sites, draw = [s for s in backbone.sites if s.has_attention], jax.random.uniform
        self.prompts = nnx.Dict()
        for s in sites:
            bound = stacked_bound(len(sites), num_tokens, s.dim)
            values = draw(rngs.params(), (num_tokens, s.dim), minval=-bound, maxval=bound)
            self.prompts[str(s.index)] = nnx.Param(values)

    def step(self, layer: nnx.Module, tokens: Tokens, ctx: Context) -> Tokens:
        """Apply a layer whose tokens read the layer's prompts at the place `insert`."""
        if str(ctx.layer) not in self.prompts:  # Swin's merging, which has no attention
            return super().step(layer, tokens, ctx)
        before, late, outer = tokens.x[:, : ctx.num_outputs], [], ctx.hook

        def hook(site: str, y: Any, x: Array, ctx: Context) -> Any:
            y = outer(site, y, x, ctx)
            if site == "attn" and self.insert == 2:
                return y + self.read(layer, before, ctx)
            if site == "norm2" and self.insert == 4:
                return y + self.read(layer, x, ctx)
            if site == "norm2" and self.insert == 3:
                # The stream cannot be replaced here: the layer's output gets its share later.
                late.append(self.read(layer, x, ctx))
                return layer.norm2(x + late[0])
            return y

        if self.insert == 1:
            tokens = self.added(tokens, self.read(layer, tokens.x, ctx))
        out = super().step(layer, tokens, dataclasses.replace(ctx, hook=hook))
        if self.insert == 5:
            late.append(self.read(layer, out.x, ctx))
        return self.added(out, late[0]) if late else out

    def read(self, layer: nnx.Module, x: Float[Array, "B L D"], ctx: Context) -> Array:
        """Return what tokens gather from the prompts of the layer `ctx.layer`, B L D."""
        prompts, own = self.prompts[str(ctx.layer)][...].astype(x.dtype), layer.attn
        if ctx.key is not None and self.dropout:
            prompts = ctx.dropout(over_batch(prompts, len(x)), self.dropout, "prompt")
        q, k, v = own.query(x), own.key(prompts), own.value(prompts)
        if own.query_norm:
            q, k = own.query_norm(q), own.key_norm(k)
        k, v = (over_heads(y, len(x)) for y in (k, v))
        return own.project(attention(q, k, v, own.implementation))

    @staticmethod
    def added(tokens: Tokens, more: Float[Array, "B L D"]) -> Tokens:
        """Return the tokens with something added."""
        return dataclasses.replace(tokens, x=tokens.x + more)


def over_heads(y: Float[Array, "... P N d"], batch: int) -> Float[Array, "B P N d"]:
    """Repeat keys or values over a batch, unless they differ by image."""
    return jnp.broadcast_to(y, (batch, *y.shape[-3:]))


def stacked_bound(first: int, second: int, width: int) -> float:
    """Return the bound of Xavier's uniform rule on a tensor of three axes, as torch applies it."""
    return math.sqrt(6 / ((first + second) * width))
