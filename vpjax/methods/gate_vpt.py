"""Gate-VPT: prompts that pass through all layers, each layer mixing in its output by a gate.

    y = layer(x), scores divided by temp_i     prompts = g_i y + (1 - g_i) x,  g_i = sigmoid(logit)

The gates start nearly closed, so that prompts enter the late layers of a self-supervised ViT almost
as they entered the first. Temperatures are cut to their bounds after every step, as the published
code does it before every pass; the gradient passes the bounds unchanged. Yoo et al. 2023, arXiv
2306.05067.

The feature is the class token, or norm(mean of tokens): the mean first. On MAE the published norm
is the pretrained one: `backbone.final_norm=True, backbone.fc_norm=False`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError, unknown
from vpjax.methods.base import Method
from vpjax.methods.vpt import POOLS, check_attention, xavier_bound
from vpjax.nn.context import Context
from vpjax.nn.tokens import Tokens


class GateVPT(Method):
    """Gated prompt tuning: one set of prompts, a gate and a temperature a layer.

    Args:
        num_tokens: P, prompts.
        num_gates: how many of the first layers are gated; None: all but the last.
        gate_init: the gates start at sigmoid(-gate_init).
        learn_temperature: whether temperatures train.
        temperature: what they start from, or are.
        temperature_min: bound of temperatures that train.
        temperature_max: likewise.
        dropout: rate, of the prompts, separately for each image.
        pool: what the head reads: "original" (as the backbone pools, prompts included where that is
            a mean of all tokens), or the mean of "image" or "prompt" tokens or of "both".

    Raises:
        UserError: for options that do not go together or do not suit the backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        num_tokens: int = 100,
        num_gates: int | None = None,
        gate_init: float = 5.0,
        learn_temperature: bool = True,
        temperature: float = 1.0,
        temperature_min: float = 0.01,
        temperature_max: float = 10.0,
        dropout: float = 0.0,
        pool: str = "original",
        rngs: nnx.Rngs,
        **inherited,
    ):
        depth = len(backbone.sites)
        uniform = all(s.has_attention and s.dim == backbone.sites[0].dim for s in backbone.sites)
        uniform = uniform and "attn.qkv" in backbone.taps
        needs = "plain attention in layers of one width, all of which its prompts pass"
        check_attention("Gate-VPT", backbone, uniform, needs, "a ViT")
        if num_tokens < 1:
            raise UserError(f"num_tokens is {num_tokens}; Gate-VPT needs at least 1 prompt")
        gates = depth - 1 if num_gates is None else num_gates
        if not 0 <= gates <= depth:
            raise UserError(f"num_gates is {gates}; give 0 to {depth}, the number of layers")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout is {dropout}; it is a probability below 1")
        if not 0 < temperature_min <= temperature <= temperature_max:
            raise UserError(
                f"temperature is {temperature}, its bounds {temperature_min} and "
                f"{temperature_max}: "
                "give positive bounds, and a temperature within them"
            )
        if pool not in POOLS:
            raise unknown("pool", pool, POOLS)
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        width = backbone.sites[0].dim
        bound = xavier_bound(backbone.patch_size, width)
        draw = jax.random.uniform(rngs.params(), (num_tokens, width), minval=-bound, maxval=bound)
        self.prompts = nnx.Param(draw)
        self.gate_logits = nnx.Param(jnp.full(gates, -gate_init, jnp.float32)) if gates else None
        start = jnp.full(depth, temperature, jnp.float32)
        self.temperatures = nnx.Param(start) if learn_temperature else None
        self.temperature, self.bounds = temperature, (temperature_min, temperature_max)
        self.limits = {r"method/temperatures": self.bounds}
        self.first, self.num_tokens, self.num_gates = backbone.num_prefix_tokens, num_tokens, gates
        means = backbone.num_pooled_tokens is None and backbone.pools_prompts
        self.dropout, self.pool = dropout, "both" if pool == "original" and means else pool

    def num_outputs(self, backbone: Backbone) -> int | None:
        """Return how many leading tokens pooling reads, prompts included; None: all."""
        usual = {"original": backbone.num_pooled_tokens, "prompt": self.first + self.num_tokens}
        return usual.get(self.pool)

    def start(self, backbone: Backbone, images: Array, ctx: Context) -> Tokens:
        """Return the backbone's tokens with the prompts before the grid."""
        tokens, prompts = super().start(backbone, images, ctx), self.prompts[...]
        if ctx.key is not None and self.dropout:
            prompts = jnp.broadcast_to(prompts, (len(images), *prompts.shape))
            prompts = ctx.dropout(prompts, self.dropout, "prompt")
        return tokens.insert(prompts, at=self.first)

    def step(self, layer: nnx.Module, tokens: Tokens, ctx: Context) -> Tokens:
        """Apply a layer; gate what it makes of the prompts, where that is read."""
        out = super().step(layer, tokens, ctx)
        last = min(self.first + self.num_tokens, out.x.shape[1])  # of the last layer: what is read
        if ctx.layer >= self.num_gates or last <= self.first:
            return out
        gate = jax.nn.sigmoid(self.gate_logits[ctx.layer]).astype(out.x.dtype)
        before, after = (x[:, self.first : last] for x in (tokens.x, out.x))
        return out.overwrite(gate * after + (1 - gate) * before, at=self.first)

    def tap(self, site: str, y: Any, x: Array, ctx: Context) -> Any:
        """Divide the scores of a layer by its temperature."""
        if site != "attn.qkv" or (self.temperatures is None and self.temperature == 1):
            return y
        q, k, v = y
        if self.temperatures is None:
            return q / self.temperature, k, v
        own = self.temperatures[ctx.layer]
        bounded = own + jax.lax.stop_gradient(jnp.clip(own, *self.bounds) - own)
        return (q / bounded).astype(q.dtype), k, v

    def predict(self, backbone: Backbone, state: Tokens, ctx: Context) -> dict[str, Array]:
        """Return the outputs for the class token, or for the norm of the mean of `pool`."""
        if self.pool == "original":
            return super().predict(backbone, state, ctx)
        last = state.num_prefix_tokens
        over = {"image": slice(last, None), "prompt": slice(self.first, last)}
        over = over.get(self.pool, slice(self.first, None))
        return self.classify(pool_mean(backbone, state, over), ctx)


def pool_mean(backbone: Backbone, tokens: Tokens, over: slice) -> Array:
    """Return the features, B D, of the mean of some tokens: the mean first, then the last norms."""
    mean = tokens.x[:, over].mean(1, keepdims=True)
    return backbone.pool(dataclasses.replace(tokens, x=mean), slice(0, 1))
