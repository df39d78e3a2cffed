"""Visual Prompt Tuning: learnt tokens beside those of the image.

    shallow   [ cls | prompts | patches ] -> layer -> layer -> ...     inserted once
    deep      layer i sees [ cls | prompts_i | patches ]; the outputs of prompts_i are dropped

Jia et al. 2022, arXiv 2203.12119. Where a prompt's own output is never used, it enters a layer as
extra keys and values only: no query, no output projection, no MLP. That is the same function with
a quarter of the work saved at 50 prompts; the published code computes the outputs and drops them.
Prompts have no position embedding, so their place among the prefix tokens does not matter.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone, Site
from vpjax.core.errors import UserError, unknown
from vpjax.methods.base import Method
from vpjax.methods.finetune import BIAS, reinitialised_cls_token
from vpjax.methods.prototypes import read_prototypes
from vpjax.nn.context import Context
from vpjax.nn.tokens import Tokens

POOLS = ("original", "image", "prompt", "both")


class _Prompted(Method):
    """Base of methods with prompts at some layers: which, and how prompts are drawn and projected.

    Args:
        deep: whether every layer has prompts of its own; False: the first layer only.
        num_deep_layers: with `deep`: only the first so many layers; None: all.
        reverse_deep: the last `num_deep_layers` layers instead of the first.
        dropout: rate, of the prompts, separately for each image.
        projection_dim: learn prompts of this width, and a linear layer to the backbone's width that
            all layers share; None: learn prompts of the backbone's width.

    Raises:
        UserError: for options that do not go together or do not suit the backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        deep: bool = True,
        num_deep_layers: int | None = None,
        reverse_deep: bool = False,
        dropout: float = 0.0,
        projection_dim: int | None = None,
        rngs: nnx.Rngs,
        **inherited,
    ):
        if not 0 <= dropout < 1:
            raise UserError(f"dropout is {dropout}; it is a probability below 1")
        if projection_dim is not None and projection_dim < 1:
            raise UserError(
                f"projection_dim is {projection_dim}; give a width of at least 1, or None"
            )
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        sites = prompted_sites(backbone, deep, num_deep_layers, reverse_deep)
        self.at = tuple(s.index for s in sites)
        self.dropout, self.width = dropout, projection_dim
        self.dims = {s.index: s.dim for s in sites}
        self.projections = nnx.Dict()
        if projection_dim:
            for dim in dict.fromkeys(s.dim for s in sites):
                self.projections[str(dim)] = _Projection(projection_dim, dim, rngs=rngs)

    def draw(
        self, backbone: Backbone, count: int, site: Site, rngs: nnx.Rngs
    ) -> Float[Array, "P d"]:
        """Draw the initial prompts of a layer.

        Args:
            backbone: the frozen backbone.
            count: P.
            site: the layer.
            rngs: draws them.

        Returns:
            P d; d is `projection_dim`, or the width of the layer.
        """
        # All stages of a hierarchical backbone use the width of the first.
        bound = xavier_bound(backbone.patch_size, self.width or backbone.sites[0].dim)
        shape = (count, self.width or site.dim)
        return jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)

    def prepare(
        self, prompt: Float[Array, "P d"], batch: int, ctx: Context
    ) -> Float[Array, "... P D"]:
        """Return a layer's prompts as they enter it: projected, and with dropout.

        Args:
            prompt: the learnt values.
            batch: B.
            ctx: of the layer.

        Returns:
            P D, or B P D where dropout makes the images differ.
        """
        if self.width:
            prompt = self.projections[str(self.dims[ctx.layer])](prompt)
        if ctx.key is None or self.dropout == 0:
            return prompt
        return ctx.dropout(jnp.broadcast_to(prompt, (batch, *prompt.shape)), self.dropout, "prompt")


class VPT(_Prompted):
    """Visual prompt tuning: prompts before the grid, at the first layer or new ones at every layer.

    Args:
        num_tokens: P, prompts of a layer.
        deep: whether every layer has prompts of its own (VPT-deep); False: the first only.
        num_deep_layers: with `deep`: only the first so many layers; None: all.
        reverse_deep: the last `num_deep_layers` layers instead of the first.
        dropout: rate, of the prompts, separately for each image.
        projection_dim: learn prompts of this width, and a linear layer to the backbone's width that
            all layers share; None: learn prompts of the backbone's width.
        deep_shared: whether all layers have the same prompts.
        expand: with `num_deep_layers`: whether the last prompts stay among the tokens for the
            layers that follow; False: they are removed.
        pool: what the head reads: "original" (as the backbone pools), or the mean of the "image"
            tokens, of the "prompt" tokens, or of "both".
        init: "random", or how prompts start from class embeddings, see `vpjax.methods.prototypes`.
        init_path: the file of class embeddings.
        match_reference_code: whether to repeat two slips of the published code: `reverse_deep`
            first overwrites patches, and after `expand=False` pooling counts removed prompts.

    Raises:
        UserError: for options that do not go together or do not suit the backbone.
    """

    restored: Mapping[str, Any] = {"init": "random", "init_path": ""}

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        num_tokens: int = 50,
        deep_shared: bool = False,
        expand: bool = True,
        pool: str = "original",
        init: str = "random",
        init_path: str = "",
        match_reference_code: bool = False,
        rngs: nnx.Rngs,
        **inherited,
    ):
        if num_tokens < 1:
            raise UserError(f"num_tokens is {num_tokens}; VPT needs at least 1 prompt")
        if pool not in POOLS:
            raise unknown("pool", pool, POOLS)
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        sites = [s for s in backbone.sites if s.index in self.at]
        self.num_tokens, self.num_prefix_tokens, self.pool = (
            num_tokens,
            backbone.num_prefix_tokens,
            pool,
        )
        self.shared, self.expand, self.match_reference_code = (
            deep_shared,
            expand,
            match_reference_code,
        )
        reverse_deep, depth = inherited.get("reverse_deep"), inherited.get("num_deep_layers")
        if not expand and (depth is None or reverse_deep):
            raise UserError(
                "expand=False removes prompts after num_deep_layers layers: set num_deep_layers, "
                "and leave reverse_deep off"
            )
        self.inserted_at = self._inserted_at(backbone, expand)
        self.overwrites = match_reference_code and bool(reverse_deep)
        if self.overwrites and backbone.positions_in_layers:
            raise UserError(
                "match_reference_code with reverse_deep overwrites patches, and the layers of this "
                "backbone need all of them (rotary positions or a relative bias). Leave one of the "
                "two out."
            )
        self.miscounts = match_reference_code and not expand

        if deep_shared and len({s.dim for s in sites}) > 1 and not self.width:
            raise UserError("deep_shared needs layers of one width; this backbone's widths differ")
        sites = sites[:1] if deep_shared else sites
        if init == "random":
            drawn = {s.index: self.draw(backbone, num_tokens, s, rngs) for s in sites}
        else:
            if depth is not None or self.width:
                raise UserError(
                    f"init={init!r} does not go with num_deep_layers or projection_dim; leave both "
                    "at None"
                )
            drawn = read_prototypes(init, init_path, backbone, num_tokens, sites)
        self.prompts = nnx.Dict({str(i): nnx.Param(p) for i, p in drawn.items()})

    def _inserted_at(self, backbone: Backbone, expand: bool) -> int | None:
        """Return the layer whose prompts are inserted, as their outputs are used; None: none."""
        # A backbone that pools all tokens pools its prompts too, unless it says otherwise.
        pools_prompts = self.pool in ("prompt", "both") or (
            self.pool == "original"
            and backbone.num_pooled_tokens is None
            and backbone.pools_prompts
        )
        if self.at[-1] < backbone.sites[-1].index:
            if self.pool == "prompt" and not expand and not self.match_reference_code:
                raise UserError(
                    "pool='prompt' finds no prompts after the last layer with expand=False; set "
                    "expand=True or another pool"
                )
            return self.at[-1] if expand else None
        return self.at[-1] if pools_prompts else None

    def num_outputs(self, backbone: Backbone) -> int | None:
        """Return how many leading tokens pooling reads, prompts included; None: all."""
        if self.pool == "original":
            return backbone.num_pooled_tokens
        return self.num_prefix_tokens + self.num_tokens if self.pool == "prompt" else None

    def step(self, layer: nnx.Module, tokens: Tokens, ctx: Context) -> Tokens:
        """Apply a layer with its prompts as extra keys and values, or inserted if they stay."""
        if ctx.layer not in self.at:
            return super().step(layer, tokens, ctx)
        prompt = self.prompt(tokens.x.shape[0], ctx)
        if self.overwrites and ctx.layer == self.at[0]:
            tokens = _without_patches(tokens, self.num_tokens)
        if ctx.layer == self.inserted_at:
            return super().step(layer, tokens.insert(prompt, at=tokens.num_prefix_tokens), ctx)
        return layer(tokens, ctx, extra_kv=prompt, num_outputs=ctx.num_outputs)

    def prompt(self, batch: int, ctx: Context) -> Float[Array, "... P D"]:
        """Return the prompts of the layer `ctx.layer` as they enter it; see `prepare`."""
        index = self.at[0] if self.shared else ctx.layer
        return self.prepare(self.prompts[str(index)][...], batch, ctx)

    def predict(self, backbone: Backbone, state: Tokens, ctx: Context) -> dict[str, Array]:
        """Return the outputs for the tokens that `pool` selects."""
        first = self.num_prefix_tokens
        last = first + self.num_tokens if self.miscounts else state.num_prefix_tokens
        over = {
            "original": None,
            "image": slice(last, None),
            "prompt": slice(first, last),
            "both": slice(first, None),
        }[self.pool]
        features = backbone.pool(state, over)
        return {"logits": self.head(features, ctx), "features": features}


class PromptBias(VPT):
    """Visual prompt tuning and bias tuning: prompts, head and every bias train."""

    trainable = rf"method/.*|{BIAS}"


class PromptCls(VPT):
    """Visual prompt tuning and the class token: prompts, head and class token train.

    Args:
        reinit: whether the class token starts near zero instead of from the weights file.

    Raises:
        UserError: if the backbone has no class token.
    """

    trainable = r"method/.*|backbone/cls_token"

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        reinit: bool = False,
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        self.reinit = reinit
        reinitialised_cls_token(backbone, None, False)

    def reinitialised_params(self, backbone: Backbone, key: Array) -> dict[str, Array]:
        """Return a new class token, if `reinit` is on."""
        return reinitialised_cls_token(backbone, key, self.reinit)


class FrozenPrompts(VPT):
    """Random prompts that do not train: shows what further tokens do without learning."""

    trainable = r"method/head/.*"
    restored: Mapping[str, Any] = {}  # prompts are in no checkpoint


class _Projection(nnx.Module):
    """A linear layer from prompts of a small width to the backbone's: P R -> P D."""

    def __init__(self, width: int, dim: int, *, rngs: nnx.Rngs):
        std, bound = math.sqrt(2 / dim), 1 / math.sqrt(width)
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (width, dim)))
        self.bias = nnx.Param(
            jax.random.uniform(rngs.params(), (dim,), minval=-bound, maxval=bound)
        )

    def __call__(self, prompts: Float[Array, "P R"]) -> Float[Array, "P D"]:
        return prompts @ self.kernel[...] + self.bias[...]


def prompted_sites(
    backbone: Backbone, deep: bool, num_deep_layers: int | None, reverse_deep: bool
) -> list[Site]:
    """Return the layers that get prompts.

    Args:
        backbone: the frozen backbone.
        deep: whether all layers do; False: the first one.
        num_deep_layers: with `deep`: only so many; None: all.
        reverse_deep: the last of them instead of the first.

    Raises:
        UserError: if the backbone has no attention, or the options contradict each other.
    """
    sites = [s for s in backbone.sites if s.has_attention]
    if not sites:
        raise UserError(
            f"{type(backbone).__name__} has no attention, so prompt tokens would have no effect: "
            "use vpt_input.Pad or vpt_input.Below."
        )
    if not deep and (num_deep_layers is not None or reverse_deep):
        raise UserError("num_deep_layers and reverse_deep need deep=True")
    if num_deep_layers is None:
        if reverse_deep:
            raise UserError("reverse_deep prompts the last num_deep_layers layers; set that too")
        return sites if deep else sites[:1]
    if not 1 <= num_deep_layers <= len(sites):
        raise UserError(f"num_deep_layers is {num_deep_layers}; give 1 to {len(sites)}")
    return sites[-num_deep_layers:] if reverse_deep else sites[:num_deep_layers]


def check_attention(method: str, backbone: Backbone, suits: bool, needs: str, on: str) -> None:
    """Check that a backbone has the attention that a method changes.

    Args:
        method: its name.
        backbone: the frozen backbone.
        suits: whether it has what the method needs.
        needs: what that is.
        on: backbones that have it.

    Raises:
        UserError: if not, with what to use instead.
    """
    prompted_sites(backbone, True, None, False)  # refuses where there is no attention at all
    if not suits:
        raise UserError(
            f"{method} needs {needs}, which {type(backbone).__name__} has not: use vpt.VPT on this "
            f"backbone, or {method} on {on}."
        )


def xavier_bound(patch_size: tuple[int, int], width: int) -> float:
    """Return the bound of the uniform distribution that prompts are drawn from.

    Xavier's rule over the elements of a patch; Jia et al. 2022, arXiv 2203.12119, section 3.2.

    Args:
        patch_size: height and width in pixels.
        width: of the prompts.
    """
    return math.sqrt(6 / (3 * math.prod(patch_size) + width))


def _without_patches(tokens: Tokens, count: int) -> Tokens:
    x = jnp.concatenate(
        [tokens.x[:, : tokens.num_prefix_tokens], tokens.x[:, tokens.num_prefix_tokens + count :]],
        axis=1,
    )
    return dataclasses.replace(tokens, x=x, grid=(0, 0))
