"""Visual Prompt Tuning: learned tokens beside the image's.

    shallow   [ cls | prompts | patches ] -> layer -> layer -> ...     prompts live on
    deep      layer i sees [ cls | prompts_i | patches ]; what became of prompts_i is thrown away

Jia et al. 2022, arXiv 2203.12119. Where a prompt's own output is never used, it enters a layer as
something to `read` only: keys and values, no query, no projection, no MLP. That is the same
function with a quarter of the work saved at 50 prompts; the published code computes the outputs
and drops them. Prompts have no position embedding: where they stand does not matter.
"""

import dataclasses
import math

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
    """Prompts of some layers: which layers, how they are drawn, projected and dropped."""

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
        sites = prompted(backbone, deep, num_deep_layers, reverse_deep)
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
        """Returns fresh prompts of one layer."""
        # All stages of a hierarchical backbone use the width of the first.
        bound = spread(backbone.patch_size, self.width or backbone.sites[0].dim)
        shape = (count, self.width or site.dim)
        return jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)

    def ready(
        self, prompt: Float[Array, "P d"], batch: int, ctx: Context
    ) -> Float[Array, "... P D"]:
        """Projects a layer's prompts and drops: P D, or B P D where dropout differs by image."""
        if self.width:
            prompt = self.projections[str(self.dims[ctx.layer])](prompt)
        if ctx.key is None or self.dropout == 0:
            return prompt
        return ctx.dropout(jnp.broadcast_to(prompt, (batch, *prompt.shape)), self.dropout, "prompt")


class VPT(_Prompted):
    """Prompts before the grid, once (`deep=False`) or anew at every layer.

    `num_deep_layers=k` prompts the first k layers; then the prompts of layer k - 1 live on, or are
    taken out with `expand=False`. `reverse_deep` prompts the last k instead. `deep_shared` gives
    all layers the same prompts. `dropout` acts on each image's prompts separately. `projection_dim=r`
    learns prompts of width r and a linear layer, shared by all depths, to the backbone's width.

    `pool` says what the head reads: "original" (as the backbone does it), or the mean of the
    "image" tokens, of the "prompt" tokens, or of "both". `init` other than "random" starts from
    class embeddings in the file `init_path`, see `vpjax.methods.prototypes`.

    `match_reference_code` reproduces two slips of the published code: the first insertion of `reverse_deep`
    overwrites patches, and after `expand=False` pooling still counts prompts that are gone.
    Raises: UserError for options that do not go together or do not suit the backbone.
    """

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
            raise UserError("expand=False takes prompts out after num_deep_layers; set that")
        self.lives = self._lives(backbone, expand)
        self.overwrites = match_reference_code and bool(reverse_deep)
        self.miscounts = match_reference_code and not expand

        if deep_shared and len({s.dim for s in sites}) > 1 and not self.width:
            raise UserError("deep_shared needs layers of one width; this backbone's widths differ")
        sites = sites[:1] if deep_shared else sites
        if init == "random":
            drawn = {s.index: self.draw(backbone, num_tokens, s, rngs) for s in sites}
        else:
            if depth is not None or self.width:
                raise UserError(f"init={init!r} does not go with num_deep_layers or project")
            drawn = read_prototypes(init, init_path, backbone, num_tokens, sites)
        self.prompts = nnx.Dict({str(i): nnx.Param(p) for i, p in drawn.items()})

    def _lives(self, backbone: Backbone, expand: bool) -> int | None:
        """The layer whose prompts are inserted, as their outputs are used; None: all are read."""
        # A backbone that pools all tokens pools its prompts too.
        reads_prompts = self.pool in ("prompt", "both") or (
            self.pool == "original" and backbone.num_pooled_tokens is None
        )
        if self.at[-1] < backbone.sites[-1].index:
            if self.pool == "prompt" and not expand and not self.match_reference_code:
                raise UserError("pool='prompt' finds no prompts at the end with expand=False")
            return self.at[-1] if expand else None
        return self.at[-1] if reads_prompts else None

    def num_outputs(self, backbone: Backbone) -> int | None:
        """What pooling reads, prompts included."""
        if self.pool == "original":
            return backbone.num_pooled_tokens
        return self.num_prefix_tokens + self.num_tokens if self.pool == "prompt" else None

    def step(self, layer: nnx.Module, tokens: Tokens, ctx: Context) -> Tokens:
        """Let the layer read its own prompts, or insert those that live on."""
        if ctx.layer not in self.at:
            return super().step(layer, tokens, ctx)
        prompt = self.prompt(len(tokens.x), ctx)
        if self.overwrites and ctx.layer == self.at[0]:
            tokens = _without_patches(tokens, self.num_tokens)
        if ctx.layer == self.lives:
            return super().step(layer, tokens.insert(prompt, at=tokens.num_prefix_tokens), ctx)
        return layer(tokens, ctx, extra_kv=prompt, num_outputs=ctx.num_outputs)

    def prompt(self, batch: int, ctx: Context) -> Float[Array, "... P D"]:
        """Return the prompts of the context's layer, as `ready` does."""
        index = self.at[0] if self.shared else ctx.layer
        return self.ready(self.prompts[str(index)][...], batch, ctx)

    def predict(self, backbone: Backbone, state: Tokens, ctx: Context) -> dict[str, Array]:
        """Pool as asked."""
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
    """Prompts, and every bias of the backbone."""

    trainable = rf"method/.*|{BIAS}"


class PromptCls(VPT):
    """Prompts, and the class token; `reinit` starts it anew."""

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

    def reinitialised_params(self, backbone: Backbone, key: Array) -> dict[str, Array]:
        """The class token, where `reinit` asks for it."""
        return reinitialised_cls_token(backbone, key, self.reinit)


class FrozenPrompts(VPT):
    """Random prompts that stay as they are: what tokens alone are worth."""

    trainable = r"method/head/.*"


class _Projection(nnx.Module):
    """P r -> P D."""

    def __init__(self, width: int, dim: int, *, rngs: nnx.Rngs):
        std, bound = math.sqrt(2 / dim), 1 / math.sqrt(width)
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (width, dim)))
        self.bias = nnx.Param(
            jax.random.uniform(rngs.params(), (dim,), minval=-bound, maxval=bound)
        )

    def __call__(self, prompts: Float[Array, "P r"]) -> Float[Array, "P D"]:
        return prompts @ self.kernel[...] + self.bias[...]


def prompted(
    backbone: Backbone, deep: bool, num_deep_layers: int | None, reverse_deep: bool
) -> list[Site]:
    """Return the layers that get prompts.

    Raises: UserError if the backbone has no attention, or the options contradict each other.
    """
    sites = [s for s in backbone.sites if s.has_attention]
    if not sites:
        raise UserError(
            f"{type(backbone).__name__} has no attention, so prompt tokens have nothing to talk "
            "to. Use vpt_input.Pad or vpt_input.Below."
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


def spread(patch_size: tuple[int, int], width: int) -> float:
    """Bound of the uniform draw of prompts (paper, section 3.2: Xavier over a patch's numbers)."""
    return math.sqrt(6 / (3 * math.prod(patch_size) + width))


def _without_patches(tokens: Tokens, count: int) -> Tokens:
    x = jnp.concatenate(
        [tokens.x[:, : tokens.num_prefix_tokens], tokens.x[:, tokens.num_prefix_tokens + count :]],
        axis=1,
    )
    return dataclasses.replace(tokens, x=x, grid=(0, 0))
