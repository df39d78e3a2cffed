"""E2VPT: VPT with further keys and values in every attention, and masks of its prompts.

    layer i       [ cls | mask P_i | patches ]            as VPT
    attention     K' = [ E_i | K ]    V' = [ E_i | V ]    after the projections, per head

E_i are neither projected nor normalised, the same for all images, and no query: the number of
tokens does not change. Masks multiply the prompts of all layers: one number a prompt, and `pieces`
numbers that are tiled over its channels (number j scales channels j, j + pieces, ...). They train
like other parameters, until pruning fixes them at 0 or 1: a pruned prompt stays among the keys as a
vector of zeros. Han et al. 2023, arXiv 2307.13770.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError, unknown
from vpjax.methods.vpt import VPT, check_attention, xavier_bound
from vpjax.nn.context import Context
from vpjax.nn.layers import join

KV_INITS = ("kaiming", "normal", "patch")


class E2VPT(VPT):
    """Effective and efficient visual prompt tuning: prompts, and prompts of keys and values.

    Args:
        num_kv_tokens: M, further keys and values of a layer; 0: none, which is VPT.
        kv_deep: whether every layer has them; False: the first only. Independent of `deep`.
        share_kv: whether keys and values are the same numbers.
        kv_init: "kaiming", U(-b, b) with b = sqrt(6 / (M d)), d being the width of a head;
            "normal", truncated, 0.02; "patch", VPT's rule for 16 channels.
        masks: whether masks of prompts train.
        pieces: numbers of a prompt's mask; its width must divide by them.
        pruned_tokens: prompts, 0 to P - 1, that are fixed at 0; masks do not train then.
        pruned_pieces: pieces that are, prompt * pieces + piece.

    Raises:
        UserError: for options that do not go together or do not suit the backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        num_kv_tokens: int = 5,
        kv_deep: bool = True,
        share_kv: bool = True,
        kv_init: str = "kaiming",
        masks: bool = False,
        pieces: int = 16,
        pruned_tokens: tuple[int, ...] = (),
        pruned_pieces: tuple[int, ...] = (),
        rngs: nnx.Rngs,
        **inherited,
    ):
        plain = "attn.qkv" in backbone.taps
        check_attention("E2VPT", backbone, plain, "plain attention", "a ViT or Swin v1")
        if num_kv_tokens < 0:
            raise UserError(f"num_kv_tokens is {num_kv_tokens}; give 0 or more")
        if kv_init not in KV_INITS:
            raise unknown("kv_init", kv_init, KV_INITS)
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        self.pieces, n = pieces, self.num_tokens
        masked = masks or bool(pruned_tokens) or bool(pruned_pieces)
        for index in self.at if masked else ():
            if pieces < 1 or self.dims[index] % pieces:
                raise UserError(f"pieces is {pieces}; give a divisor of {self.dims[index]}")
        trains = masks and not (pruned_tokens or pruned_pieces)
        self.token_mask = nnx.Param(jnp.ones(n)) if trains else None
        self.piece_mask = nnx.Param(jnp.ones((n, pieces))) if trains else None
        self.pruned = None
        if masked and not trains:
            (
                kept("pruned_tokens", pruned_tokens, n),
                kept("pruned_pieces", pruned_pieces, n * pieces),
            )
            self.pruned = (tuple(pruned_tokens), tuple(pruned_pieces))

        sites = [s for s in backbone.sites if s.has_attention]
        self.keys, self.values = nnx.Dict(), nnx.Dict()
        for site in (sites if kv_deep else sites[:1]) if num_kv_tokens else ():
            heads, width = backbone.layers[site.index].attn.query.kernel.shape[1:]
            shape = (num_kv_tokens, heads, width)
            draw = lambda shape=shape: draw_kv(kv_init, shape, backbone.patch_size, rngs)  # noqa: E731
            self.keys[str(site.index)] = nnx.Param(draw())
            if not share_kv:
                self.values[str(site.index)] = nnx.Param(draw())

    def prepare(
        self, prompt: Float[Array, "P d"], batch: int, ctx: Context
    ) -> Float[Array, "... P D"]:
        """Return a layer's prompts as they enter it: projected, with dropout, then masked."""
        prompt = super().prepare(prompt, batch, ctx)
        if self.pruned:
            tokens, pieces = self.pruned
            n = self.num_tokens
            mask = kept("pruned_tokens", tokens, n)[:, None]
            mask = mask * kept("pruned_pieces", pieces, n * self.pieces).reshape(n, -1)
        elif self.token_mask is not None:
            mask = self.token_mask[...][:, None] * self.piece_mask[...]
        else:
            return prompt
        return prompt * jnp.tile(mask, prompt.shape[-1] // self.pieces)

    def tap(self, site: str, y: Any, x: Array, ctx: Context) -> Any:
        """Put the layer's own keys and values before the others."""
        index = str(ctx.layer)
        if site != "attn.qkv" or index not in self.keys:
            return y
        q, k, v = y
        own = self.keys[index][...].astype(k.dtype)
        values = self.values[index][...].astype(v.dtype) if index in self.values else own
        return q, join(own, k), join(values, v)


def kept(option: str, pruned: tuple[int, ...], count: int) -> np.ndarray:
    """Return the mask, 1 or 0, of `count` things of which some are pruned.

    Raises:
        UserError: if one of them does not exist.
    """
    if wrong := [i for i in pruned if not 0 <= i < count]:
        raise UserError(f"{option} has {wrong[0]}; give numbers from 0 to {count - 1}")
    return np.isin(np.arange(count), pruned, invert=True).astype(np.float32)


def draw_kv(
    init: str, shape: tuple[int, int, int], patch_size: tuple[int, int], rngs: nnx.Rngs
) -> Float[Array, "M N d"]:
    """Return keys or values at their start; see `E2VPT`."""
    if init == "normal":
        return 0.02 * jax.random.truncated_normal(rngs.params(), -2 / 0.02, 2 / 0.02, shape)
    bound = math.sqrt(6 / (shape[0] * shape[2]))
    bound = xavier_bound(patch_size, 16) if init == "patch" else bound
    return jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)
