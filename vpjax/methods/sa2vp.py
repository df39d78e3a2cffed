"""SA2VP: a learnt map of prompts, aligned with the image, as a second stream.

    image   x -> layer -> + s f -> layer -> + s f -> ...       f = adapter(cross attention + own)
               \\     /       \\     /
    prompt  p -> layer -> + s f -> layer -> ...                one frozen backbone, one head

At each layer of the largest stage one stream receives from the other: each of its tokens attends to
the 3 x 3 tokens around its own position there (`vpjax.nn.local_attention`), with the layer's own
frozen projections; a trained norm and bottleneck follow. The prompt stream receives at every
`period`-th layer, the image stream at all others. Loss: 0.8 CE(image) + 0.2 CE(prompt).

Pei et al. 2024, arXiv 2312.10376. Same result as the published code with less work: queries, keys
and values are those the layer computes anyway, and a stream has batch 1 until images differ in it.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from vpjax.backbones.base import Backbone, Site
from vpjax.backbones.swin_v2 import CosineAttention
from vpjax.core.errors import UserError
from vpjax.methods.base import Criterion, Method
from vpjax.methods.prompt_map import Bottleneck, PromptMap, WeightedMap
from vpjax.nn import local_attention
from vpjax.nn.context import Context
from vpjax.nn.tokens import Tokens, over_batch

PROJECTIONS = ("query", "key", "value")
SITES = tuple(f"attn.{name}" for name in PROJECTIONS)
EPS = 1e-6  # of the norm before the cross attention; Swin's own norms have 1e-5
IMAGE, PROMPT = 0, 1
Streams = tuple[Tokens, Tokens]  # of the image, of the prompts


class SA2VP(Method):
    """Spatially aligned and adapted prompts: a map of prompts that runs beside the image.

    The backbone's own dropout and stochastic depth act while training, although it is frozen.

    Args:
        inter_dim: R, width of the prompt maps and of the bottlenecks.
        inter_weight: s, scale of what a stream receives.
        branch_weights: of the image's and the prompts' loss.
        cross_attn: "aligned" or "acc", two functions; see `vpjax.nn.local_attention`.
        cross_impl: "rows", "dense" or "auto", how it is computed; see there.
        period: the prompt stream receives at every `period`-th layer; None: 4, or 6 on backbones of
            several stages.
        deep_prompts: number of further maps, weighted by channel, that are added where the prompt
            stream receives again; None: at all of these layers, or none with several stages.
        dropout: rate, of the cross attention's output and twice in the bottleneck.
        deep_prompt_shared_dropout: whether the further maps have the same dropout masks in all
            images, so that they pass a layer once a batch.

    Raises:
        UserError: for a number out of range, or a backbone whose attention cannot be shared.
    """

    backbone_dropout = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        inter_dim: int = 16,
        inter_weight: float = 0.1,
        branch_weights: tuple[float, float] = (0.8, 0.2),
        cross_attn: str = "aligned",
        cross_impl: str = "auto",
        period: int | None = None,
        deep_prompts: int | None = None,
        dropout: float = 0.1,
        deep_prompt_shared_dropout: bool = False,
        head_init: str = "normal",
        rngs: nnx.Rngs,
        **inherited,
    ):
        local_attention.check(cross_attn, cross_impl)
        flat = len({s.stage for s in backbone.sites}) == 1
        if period is None:
            period = 4 if flat else 6
        check(inter_dim, branch_weights, period, dropout)
        super().__init__(backbone, num_classes, head_init=head_init, rngs=rngs, **inherited)
        self.inter_weight, self.branch_weights = inter_weight, tuple(branch_weights)
        self.cross_attn, self.cross_impl = cross_attn, cross_impl
        self.dropout, self.shared_dropout = dropout, deep_prompt_shared_dropout

        sites = largest_stage(backbone)
        self.at = tuple(s.index for s in sites)
        self.to_prompt = self.at[::period]
        again = sites[::period][1:]
        count = deep_prompts
        if count is None:
            count = len(again) if flat else 0
        if not 0 <= count <= len(again):
            raise UserError(f"deep_prompts is {count}; give 0 to {len(again)} on this backbone")
        first = backbone.sites[0]
        self.prompt = PromptMap(backbone.num_prefix_tokens, first, inter_dim, flat, rngs=rngs)
        self.deep = nnx.Dict(
            {
                str(s.index): WeightedMap(backbone.num_prefix_tokens, s, inter_dim, flat, rngs=rngs)
                for s in again[:count]
            }
        )
        self.adapters = nnx.Dict(
            {str(s.index): Bottleneck(s.dim, inter_dim, flat, rngs=rngs) for s in sites}
        )

    def start(self, backbone: Backbone, images: Float[Array, "B H W C"], ctx: Context) -> Streams:
        """Return the tokens of the image and of the prompts, these with batch 1 if not random."""
        image = super().start(backbone, images, ctx)
        x = self.prompt(image.x.dtype)[None]  # 1 L D
        patches = x[:, backbone.num_prefix_tokens :].reshape(1, *image.grid, -1)
        own = (x[:, : backbone.num_prefix_tokens],) if backbone.num_prefix_tokens else ()
        prompt, rate = backbone.add_positions(patches, ctx, *own), getattr(backbone, "dropout", 0.0)
        if ctx.key is not None and rate:
            prompt = _repeat_over_batch(prompt, images.shape[0])
        x = ctx.branch("prompt").backbone_dropout(prompt.x, rate, "embed")
        return image, dataclasses.replace(prompt, x=x)

    def step(self, layer: nnx.Module, state: Streams, ctx: Context) -> Streams:
        """Apply a layer to both streams, and let one receive from the other."""
        image, prompt = state
        if _differs_by_image(layer, ctx):
            prompt = _repeat_over_batch(prompt, image.x.shape[0])
        before = (image, prompt)
        after, heads = self.apply_layer(layer, before, ctx)
        if ctx.layer not in self.at:
            return after[IMAGE], after[PROMPT]
        to = PROMPT if ctx.layer in self.to_prompt else IMAGE
        own, other = before[to], before[1 - to]
        (q, _, _), (_, k, v) = heads[to], heads[1 - to]
        read = self.cross(layer, own, other, (q, k, v), ctx)
        received = self.fuse(own.x[:, : ctx.num_outputs], read, ctx)
        if str(ctx.layer) in self.deep:
            after[PROMPT] = _add(after[PROMPT], self.inject(layer, image, ctx))
        after[to] = _add(after[to], self.inter_weight * received)
        return after[IMAGE], after[PROMPT]

    def apply_layer(self, layer: nnx.Module, state: Streams, ctx: Context) -> tuple[list, list]:
        """Return both streams after a layer, and the queries, keys and values of both.

        Both streams are stacked into one batch once the image's depends on trained parameters;
        before that it passes separately, as it needs no backward pass.
        """
        image, prompt = state
        if len(self.at) < 2 or ctx.layer <= self.at[1]:
            image, image_heads = self.apply_and_record(layer, image, ctx)
            prompt, prompt_heads = self.apply_and_record(layer, prompt, ctx.branch("prompt"))
            return [image, prompt], [image_heads, prompt_heads]
        # Interleaved, so that each device keeps its images where the batch is split over devices.
        x = jnp.stack([image.x, prompt.x], axis=1).reshape(-1, *image.x.shape[1:])  # 2B L D
        tokens, heads = self.apply_and_record(layer, dataclasses.replace(image, x=x), ctx)
        part = lambda y, i: y.reshape(-1, 2, *y.shape[1:])[:, i]  # noqa: E731
        streams = [dataclasses.replace(tokens, x=part(tokens.x, i)) for i in (IMAGE, PROMPT)]
        return streams, [tuple(part(y, i) for y in heads) for i in (IMAGE, PROMPT)]

    def apply_and_record(
        self, layer: nnx.Module, tokens: Tokens, ctx: Context
    ) -> tuple[Tokens, tuple]:
        """Apply a layer; return its tokens, and the queries, keys and values it computed."""
        seen = {}

        def hook(site, y, x, inner):
            seen[site] = ctx.hook(site, y, x, inner)
            return seen[site]

        tokens = super().step(layer, tokens, dataclasses.replace(ctx, hook=hook))
        return tokens, tuple(seen[site] for site in SITES if site in seen)

    def cross(
        self, layer: nnx.Module, own: Tokens, other: Tokens, heads: tuple, ctx: Context
    ) -> Float[Array, "B K D"]:
        """Return what a stream gathers from the neighbourhoods of its tokens in the other stream.

        The backward pass computes the scores again from queries, keys and values, which the
        self-attention keeps anyway.

        Args:
            layer: whose projections made `heads`.
            own: the stream that receives, before the layer.
            other: the stream it receives from, before the layer.
            heads: queries of `own`, keys and values of `other`, each B L N d.
            ctx: `ctx.num_outputs` is how many leading tokens receive.
        """

        def renormalised(own, other, heads):
            # No norm comes before it, and its scores are cosines.
            if isinstance(layer.attn, CosineAttention):
                return (*layer.attn.comparable(heads[0], heads[1]), heads[2])
            if layer.norm1.eps == EPS:
                return heads
            own, other = _norm_ratio(own, layer.norm1.eps), _norm_ratio(other, layer.norm1.eps)
            parts = zip(PROJECTIONS, heads, (own, other, other), strict=True)
            return [_rescale(layer, name, y, ratio) for name, y, ratio in parts]

        def placed(own, other, heads):
            q, k, v = renormalised(own, other, heads)
            return *layer.attn.place(q, k, k.shape[1]), v

        def read(own, other, heads):
            q, k, v = placed(own, other, heads)
            return local_attention.local_attention(
                q[:, : ctx.num_outputs], k, v, grid, self.cross_attn, self.cross_impl
            )

        grid = other.grid
        for name, y in zip(PROJECTIONS, placed(own.x, other.x, heads), strict=True):
            ctx.tap(f"cross.{name}", y, own.x)  # for pictures; unused, the compiler removes it
        return layer.attn.project(jax.checkpoint(read)(own.x, other.x, heads))

    def fuse(
        self, own: Float[Array, "#B K D"], read: Float[Array, "B K D"], ctx: Context
    ) -> Float[Array, "B K D"]:
        """Return what a stream receives, before it is scaled.

        Args:
            own: tokens of the stream before the layer.
            read: what `cross` returned for them.
            ctx: of the layer.
        """
        y = ctx.dropout(read, self.dropout, "cross.out") + own
        return self.adapters[str(ctx.layer)](y, self.dropout, ctx)

    def inject(self, layer: nnx.Module, like: Tokens, ctx: Context) -> Float[Array, "#B K D"]:
        """Return the further map of prompts of a layer after that layer, weighted by channel.

        Args:
            layer: of the backbone.
            like: tokens of the image, for batch size, grid and dtype.
            ctx: of the layer.
        """
        deep = self.deep[str(ctx.layer)]
        prompt = dataclasses.replace(like, x=deep.prompt(like.x.dtype)[None])
        if _differs_by_image(layer, ctx) and not self.shared_dropout:
            prompt = _repeat_over_batch(prompt, like.x.shape[0])
        x = self.apply_to_prompts(layer, prompt, ctx.branch("deep")).x
        return x * deep.weight[...].astype(x.dtype)

    def apply_to_prompts(self, layer: nnx.Module, prompt: Tokens, ctx: Context) -> Tokens:
        """Apply a layer to a further map of prompts, which has no position embedding."""
        return super().step(layer, prompt, ctx)

    def predict(self, backbone: Backbone, state: Streams, ctx: Context) -> dict[str, Array]:
        """Return the outputs of the image, with "logits_prompt" and "features_prompt"."""
        out = super().predict(backbone, state[IMAGE], ctx)
        beside = super().predict(backbone, state[PROMPT], ctx.branch("prompt"))
        return out | {f"{name}_prompt": value for name, value in beside.items()}

    def loss(
        self, out: dict[str, Array], labels: Int[Array, " B *C"], criterion: Criterion, ctx: Context
    ) -> Float[Array, " B"]:
        """Return the weighted sum of the losses of both streams."""
        image, prompt = (criterion(out[n], labels) for n in ("logits", "logits_prompt"))
        return self.branch_weights[IMAGE] * image + self.branch_weights[PROMPT] * prompt


def check(inter_dim: int, branch_weights: tuple[float, float], period: int, dropout: float) -> None:
    """Check the numbers among the options of `SA2VP`, see there.

    Raises:
        UserError: for the first that is out of range.
    """
    if inter_dim < 1:
        raise UserError(f"inter_dim is {inter_dim}; the bottleneck needs a width of at least 1")
    if len(branch_weights) != 2 or min(branch_weights) < 0:
        raise UserError(f"branch_weights is {branch_weights}; give two weights of 0 or more")
    if period < 2:
        raise UserError(f"period is {period}; give 2 or more, else the image never receives")
    if not 0 <= dropout < 1:
        raise UserError(f"dropout is {dropout}; it is a probability below 1")


def largest_stage(backbone: Backbone) -> list[Site]:
    """Return the layers of the stage that has the most, the later one of equal stages.

    Raises:
        UserError: if the backbone's layers have no queries, keys and values to share.
    """
    sites = [s for s in backbone.sites if s.has_attention]
    if not sites or not backbone.taps.issuperset(SITES):
        raise UserError(
            f"{type(backbone).__name__} has no attention through which SA2VP's two streams could "
            "exchange. Use a ViT or a Swin."
        )
    stages = [s.stage for s in sites]
    stage = max(stages, key=lambda s: (stages.count(s), s))
    return [s for s in sites if s.stage == stage]


def _differs_by_image(layer: nnx.Module, ctx: Context) -> bool:
    """Return whether dropout or stochastic depth of a layer makes images of a batch differ."""
    if ctx.key is None:
        return False
    mlp = getattr(layer, "mlp", None)
    return getattr(layer, "drop_path", 0.0) > 0 or getattr(mlp, "dropout", 0.0) > 0


def _norm_ratio(x: Array, eps: float) -> Array:
    """Return the ratio (B L 1 1) of tokens normalised with `EPS` to those with `eps`."""
    variance = jnp.var(x.astype(jnp.float32), axis=-1)  # B L
    return jnp.sqrt((variance + eps) / (variance + EPS))[..., None, None]


def _rescale(layer: nnx.Module, name: str, y: Array, ratio: Array) -> Array:
    """Return the projection `y` as if its input, without the norm's bias, had been scaled."""
    constant = getattr(layer.attn, name)(layer.norm1.bias[...]).astype(jnp.float32)  # N d
    return (constant + ratio * (y - constant)).astype(y.dtype)


def _repeat_over_batch(tokens: Tokens, batch: int) -> Tokens:
    return dataclasses.replace(tokens, x=over_batch(tokens.x, batch))


def _add(tokens: Tokens, y: Array) -> Tokens:
    return dataclasses.replace(tokens, x=tokens.x + y)
