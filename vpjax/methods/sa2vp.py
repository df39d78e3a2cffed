"""SA2VP: a learned map of prompts, aligned with the image, as a second stream.

    image   x -> layer -> + s f -> layer -> + s f -> ...       f = adapter(cross attention + own)
               \\     /       \\     /
    prompt  p -> layer -> + s f -> layer -> ...                one frozen backbone, one head

At each layer of the deepest stage one stream receives from the other: each of its tokens attends to
the 3 x 3 tokens around its own place there (`vpjax.nn.local_attention`), with the layer's own frozen
projections; a trained norm and bottleneck follow. The prompt stream receives at every `period`-th
layer, the image stream at all others. Loss: 0.8 CE of the image's logits + 0.2 CE of the prompt's.

Pei et al. 2024, arXiv 2312.10376. The published code copies the projections and applies them anew,
and runs what no image has touched yet once an image. Here queries, keys and values are those the
layer computes for itself, a stream stays at batch 1 until something differs by image, and the image
stream has no backward pass before the first fusion into it: the same numbers with less work.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from vpjax.backbones.base import Backbone, Site
from vpjax.core.errors import UserError
from vpjax.methods.base import Criterion, Method
from vpjax.methods.prompt_map import Bottleneck, PromptMap, WeightedMap
from vpjax.nn import local_attention
from vpjax.nn.context import Context
from vpjax.nn.tokens import Tokens, over_batch

PROJECTIONS = ("query", "key", "value")
SITES = tuple(f"attn.{name}" for name in PROJECTIONS)
EPS = 1e-6  # of the norm that streams meet behind; Swin's own has 1e-5
IMAGE, PROMPT = 0, 1
Streams = tuple[Tokens, Tokens]  # of the image, of the prompts


class SA2VP(Method):
    """Two streams and a bottleneck `inter_dim` wide at every layer of the deepest stage.

    `inter_weight` scales what a stream receives; `branch_weights` are those of the two losses.
    `cross_attn` is "aligned" or "acc", `cross_impl` "rows", "dense" or "auto", see
    `vpjax.nn.local_attention`. `period` is 4, or 6 on backbones of several stages, unless given.
    `deep_prompts` counts the further maps added, weighted by channel, where the prompt stream
    receives again: all of these layers unless given, none on backbones of several stages.

    `dropout` acts on the cross attention's output and twice in the bottleneck; the backbone's own
    dropout and stochastic depth act too, although it is frozen. `deep_prompt_shared_dropout` gives
    the deep prompts of all images the same masks, which saves their passes but one.
    Raises: UserError for numbers out of range, or a backbone without attention to share.
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

        sites = deepest(backbone)
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
        """Return the image's tokens and the prompts', these at batch 1 where nothing is random."""
        image = super().start(backbone, images, ctx)
        x = self.prompt(image.x.dtype)[None]  # 1 L D
        patches = x[:, backbone.num_prefix_tokens :].reshape(1, *image.grid, -1)
        own = (x[:, : backbone.num_prefix_tokens],) if backbone.num_prefix_tokens else ()
        prompt, rate = backbone.add_positions(patches, ctx, *own), getattr(backbone, "dropout", 0.0)
        if ctx.key is not None and rate:
            prompt = _each(prompt, len(images))
        x = ctx.branch("prompt").backbone_dropout(prompt.x, rate, "embed")
        return image, dataclasses.replace(prompt, x=x)

    def step(self, layer: nnx.Module, state: Streams, ctx: Context) -> Streams:
        """Apply a layer to both streams, and let one receive from the other."""
        image, prompt = state
        if _random(layer, ctx):
            prompt = _each(prompt, len(image.x))
        before = (image, prompt)
        after, heads = self.both(layer, before, ctx)
        if ctx.layer not in self.at:
            return after[IMAGE], after[PROMPT]
        to = PROMPT if ctx.layer in self.to_prompt else IMAGE
        own, other = before[to], before[1 - to]
        (q, _, _), (_, k, v) = heads[to], heads[1 - to]
        read = self.cross(layer, own, other, (q, k, v), ctx)
        received = self.fuse(own.x[:, : ctx.num_outputs], read, ctx)
        if str(ctx.layer) in self.deep:
            after[PROMPT] = _plus(after[PROMPT], self.inject(layer, image, ctx))
        after[to] = _plus(after[to], self.inter_weight * received)
        return after[IMAGE], after[PROMPT]

    def both(self, layer: nnx.Module, state: Streams, ctx: Context) -> tuple[list, list]:
        """Return both streams behind a layer, and the queries, keys and values of both.

        Streams go together, stacked, once the image's too depends on what trains; before that, a
        pass of its own needs no derivative.
        """
        image, prompt = state
        if len(self.at) < 2 or ctx.layer <= self.at[1]:
            image, image_heads = self.watch(layer, image, ctx)
            prompt, prompt_heads = self.watch(layer, prompt, ctx.branch("prompt"))
            return [image, prompt], [image_heads, prompt_heads]
        # Image by image, so that devices keep theirs where the batch is divided among them.
        x = jnp.stack([image.x, prompt.x], axis=1).reshape(-1, *image.x.shape[1:])  # 2B L D
        tokens, heads = self.watch(layer, dataclasses.replace(image, x=x), ctx)
        part = lambda y, i: y.reshape(-1, 2, *y.shape[1:])[:, i]  # noqa: E731
        streams = [dataclasses.replace(tokens, x=part(tokens.x, i)) for i in (IMAGE, PROMPT)]
        return streams, [tuple(part(y, i) for y in heads) for i in (IMAGE, PROMPT)]

    def watch(self, layer: nnx.Module, tokens: Tokens, ctx: Context) -> tuple[Tokens, tuple]:
        """Return a layer's tokens, and the queries, keys and values it computed (if any)."""
        seen = {}

        def hook(site, y, x, inner):
            seen[site] = ctx.hook(site, y, x, inner)
            return seen[site]

        tokens = super().step(layer, tokens, dataclasses.replace(ctx, hook=hook))
        return tokens, tuple(seen[site] for site in SITES if site in seen)

    def cross(
        self, layer: nnx.Module, own: Tokens, other: Tokens, heads: tuple, ctx: Context
    ) -> Float[Array, "B K D"]:
        """Returns what `own` tokens read around their places in the `other` stream.

        `heads` are queries of the one, keys and values of the other. The backward pass computes
        scores again: as self-attention keeps queries, keys and values, it needs nothing more.
        """

        def sharp(own, other, heads):
            if layer.norm1.eps == EPS:
                return heads
            own, other = _sharpen(own, layer.norm1.eps), _sharpen(other, layer.norm1.eps)
            parts = zip(PROJECTIONS, heads, (own, other, other), strict=True)
            return [_rescale(layer, name, y, ratio) for name, y, ratio in parts]

        def read(own, other, heads):
            q, k, v = sharp(own, other, heads)
            return local_attention.local_attention(
                q[:, : ctx.num_outputs], k, v, grid, self.cross_attn, self.cross_impl
            )

        grid = other.grid
        for name, y in zip(PROJECTIONS, sharp(own.x, other.x, heads), strict=True):
            ctx.tap(f"cross.{name}", y, own.x)  # for pictures; unread, the compiler drops it
        return layer.attn.out(jax.checkpoint(read)(own.x, other.x, heads))

    def fuse(
        self, own: Float[Array, "#B K D"], read: Float[Array, "B K D"], ctx: Context
    ) -> Float[Array, "B K D"]:
        """Returns what a stream of tokens `own` receives, before it is scaled."""
        y = ctx.dropout(read, self.dropout, "cross.out") + own
        return self.adapters[str(ctx.layer)](y, self.dropout, ctx)

    def inject(self, layer: nnx.Module, like: Tokens, ctx: Context) -> Float[Array, "#B K D"]:
        """Return a fresh map of prompts behind the layer, weighted by channel."""
        deep = self.deep[str(ctx.layer)]
        prompt = dataclasses.replace(like, x=deep.prompt(like.x.dtype)[None])
        if _random(layer, ctx) and not self.shared_dropout:
            prompt = _each(prompt, len(like.x))
        x = self.alone(layer, prompt, ctx.branch("deep")).x
        return x * deep.weight[...].astype(x.dtype)

    def alone(self, layer: nnx.Module, prompt: Tokens, ctx: Context) -> Tokens:
        """Apply a layer to prompts that no stream has met: they have no positions."""
        return super().step(layer, prompt, ctx)

    def predict(self, backbone: Backbone, state: Streams, ctx: Context) -> dict[str, Array]:
        """Add "logits_prompt" and "features_prompt"; the image's alone are the prediction."""
        out = super().predict(backbone, state[IMAGE], ctx)
        beside = super().predict(backbone, state[PROMPT], ctx.branch("prompt"))
        return out | {f"{name}_prompt": value for name, value in beside.items()}

    def loss(
        self, out: dict[str, Array], labels: Int[Array, "B *C"], criterion: Criterion, ctx: Context
    ) -> Float[Array, " B"]:
        """The losses of both streams, weighted."""
        image, prompt = (criterion(out[n], labels) for n in ("logits", "logits_prompt"))
        return self.branch_weights[IMAGE] * image + self.branch_weights[PROMPT] * prompt


def check(inter_dim: int, branch_weights: tuple[float, float], period: int, dropout: float) -> None:
    """Raise a UserError for a number out of range."""
    if inter_dim < 1:
        raise UserError(f"inter_dim is {inter_dim}; the bottleneck needs a width of at least 1")
    if len(branch_weights) != 2 or min(branch_weights) < 0:
        raise UserError(f"branch_weights is {branch_weights}; give two weights of 0 or more")
    if period < 2:
        raise UserError(f"period is {period}; from 2 on, both streams receive")
    if not 0 <= dropout < 1:
        raise UserError(f"dropout is {dropout}; it is a probability below 1")


def deepest(backbone: Backbone) -> list[Site]:
    """Return the layers of the stage with most of them, the later one of two alike.

    Raises: UserError if the backbone's layers have no queries, keys and values to share.
    """
    sites = [s for s in backbone.sites if s.has_attention]
    if not sites or not backbone.taps.issuperset(SITES):
        raise UserError(
            f"{type(backbone).__name__} has no attention, which SA2VP's streams meet in. "
            "Use a ViT or a Swin."
        )
    stages = [s.stage for s in sites]
    stage = max(stages, key=lambda s: (stages.count(s), s))
    return [s for s in sites if s.stage == stage]


def _random(layer: nnx.Module, ctx: Context) -> bool:
    """Whether a layer of the backbone treats images differently by chance."""
    if ctx.key is None:
        return False
    mlp = getattr(layer, "mlp", None)
    return getattr(layer, "drop_path", 0.0) > 0 or getattr(mlp, "dropout", 0.0) > 0


def _sharpen(x: Array, eps: float) -> Array:
    """By how much a norm with EPS would stretch tokens that one with `eps` has normalised."""
    variance = jnp.var(x.astype(jnp.float32), axis=-1)  # B L
    return jnp.sqrt((variance + eps) / (variance + EPS))[..., None, None]


def _rescale(layer: nnx.Module, name: str, y: Array, ratio: Array) -> Array:
    """Stretche the normalised tokens behind a projection; their bias and its own stay."""
    still = getattr(layer.attn, name)(layer.norm1.bias[...]).astype(jnp.float32)  # N d
    return (still + ratio * (y - still)).astype(y.dtype)


def _each(tokens: Tokens, batch: int) -> Tokens:
    return dataclasses.replace(tokens, x=over_batch(tokens.x, batch))


def _plus(tokens: Tokens, y: Array) -> Tokens:
    return dataclasses.replace(tokens, x=tokens.x + y)
