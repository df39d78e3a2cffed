"""DA-VPT: deep prompts, of which those of the guided layers also stand for groups of classes.

    layer i     [ cls | norm P_i | patches ]                               as VPT
    guided      s = scale cos(embedding of an image, prompt j)             image: its class token's
                loss = cross entropy + mean over guided layers of          query, or mean of patches
                       patch_weight metric(s patches) + class_weight metric(s class token)

Each class belongs to one prompt of a guided layer; the metric, in training only, pulls its images
to that one and pushes others off (`vpjax.methods.proxy_metric`). Classes that look alike share a
prompt (`vpjax.methods.class_groups`). Ren et al. 2025, arXiv 2505.23694.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError, unknown
from vpjax.methods.base import Criterion, Method
from vpjax.methods.class_groups import ClassGroups, some_of_each
from vpjax.methods.cvpt import stacked_bound
from vpjax.methods.proxy_metric import ProxyMetric, unit
from vpjax.methods.vpt import check_attention
from vpjax.nn.context import Context
from vpjax.nn.layers import LayerNorm
from vpjax.nn.tokens import Tokens, over_batch

BIASES = {"q": "attn/query", "k": "attn/key", "v": "attn/value", "proj": "attn/out"}
ONE_CLASS = (
    "da_vpt.DAVPT needs one class an image, and images of this data set have several: use vpt.VPT."
)
BIASES |= {n: n for n in ("norm1", "norm2")} | {n: f"mlp/{n}" for n in ("fc1", "fc2")}


class DAVPT(Method):
    """Distribution-aware visual prompt tuning: deep prompts, guided by a metric loss.

    Args:
        num_tokens: prompts of a layer that is not guided.
        num_proxies: prompts of a guided layer; at most one a class.
        first_guided: index of the first guided layer; None: the last layer.
        last_guided: of the last one; None: the last layer.
        criterion: "anchor" or "nca", as the following see `vpjax.methods.proxy_metric`.
        patch_weight: of the metric of patches.
        class_weight: of the metric of class tokens.
        scale: factor of cosines.
        pos_alpha, neg_alpha, pos_delta, neg_delta: steepness and margins.
        class_embedding: what stands for the class token: its "query", "key", or itself, "output".
        class_proxies: what it is compared with: "prompt", or the mean "query" or "key" of each.
        patch_proxies: what the mean of patches is compared with, likewise.
        regroup_from: epoch from which classes are grouped anew after every epoch, by features of
            the model that trains; None: they stay grouped as at the start.
        init_divide_by8: whether prompts start at an eighth of the usual bound.
        prompt_norm: "none", "l2" or "layer", a trained LayerNorm.
        mask: whether prompts see patches only; it changes something where pooling reads prompts.
        biases: those of the backbone that train too, such as ("v", "fc2", "proj", "norm2").
        dropout: rate, of the prompts, separately for each image.

    Raises:
        UserError: for options that do not go together or do not suit the backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        num_tokens: int = 20,
        num_proxies: int = 10,
        first_guided: int | None = None,
        last_guided: int | None = None,
        criterion: str = "anchor",
        patch_weight: float = 0.05,
        class_weight: float = 0.05,
        scale: float = 1.0,
        pos_alpha: float = 32.0,
        neg_alpha: float = 32.0,
        pos_delta: float = 0.1,
        neg_delta: float = -0.1,
        class_embedding: str = "query",
        class_proxies: str = "prompt",
        patch_proxies: str = "prompt",
        regroup_from: int | None = None,
        init_divide_by8: bool = False,
        prompt_norm: str = "none",
        mask: bool = False,
        biases: tuple[str, ...] = (),
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        **inherited,
    ):
        sites, depth = backbone.sites, len(backbone.sites)
        plain = "attn.qkv" in backbone.taps and len({s.dim for s in sites}) == 1
        plain = plain and getattr(backbone, "cls_token", None) is not None
        needs = "a class token and plain attention in layers of one width"
        check_attention("DA-VPT", backbone, plain, needs, "a ViT with a class token")
        for option, value, known in (
            ("prompt_norm", prompt_norm, ("none", "l2", "layer")),
            *(("biases", name, BIASES) for name in biases),
        ):
            if value not in known:
                raise unknown(option, value, known)
        first = depth - 1 if first_guided is None else first_guided
        last = depth - 1 if last_guided is None else last_guided
        if not 0 <= first <= last < depth or min(num_tokens, num_proxies) < 1:
            raise UserError(
                f"guided layers {first} to {last} with {num_proxies} prompts, others with "
                f"{num_tokens}: give layers from 0 to {depth - 1}, and at least 1 prompt"
            )
        if not 0 <= dropout < 1:
            raise UserError(f"dropout is {dropout}; it is a probability below 1")
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        self.guided = tuple(range(first, last + 1))
        self.num_proxies = min(num_proxies, num_classes)
        self.metric = ProxyMetric(
            criterion=criterion,
            scale=scale,
            weights=(patch_weight, class_weight),
            proxies=(patch_proxies, class_proxies),
            class_embedding=class_embedding,
            margins=(pos_alpha, neg_alpha, pos_delta, neg_delta),
        )
        self.prompt_norm, self.mask, self.dropout = prompt_norm, mask, dropout
        self.norm = LayerNorm(sites[0].dim) if prompt_norm == "layer" else None
        self.inserted = backbone.num_pooled_tokens is None and backbone.pools_prompts
        if biases:
            places = "|".join(BIASES[name] for name in biases)
            self.trainable = rf"method/.*|backbone/layers/\d+/({places})/bias"
        self.prompts = nnx.Dict()
        for s in sites:
            ours = s.index in self.guided
            alike = len(self.guided) if ours else depth - len(self.guided)
            count = self.num_proxies if ours else num_tokens
            bound = stacked_bound(alike, count, s.dim) / (8 if init_divide_by8 else 1)
            drawn = jax.random.uniform(rngs.params(), (count, s.dim), minval=-bound, maxval=bound)
            self.prompts[str(s.index)] = nnx.Param(drawn)
        self.groups = ClassGroups(num_classes, self.num_proxies, backbone.dim, regroup_from)
        self.begun = nnx.BatchStat(jnp.zeros(()))

    def choose_images(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the numbers of some training images of each class."""
        if labels.ndim > 1:
            raise UserError(ONE_CLASS)
        return some_of_each(labels, rng)

    def start_values(
        self, backbone: Backbone, images: Float[Array, "S H W C"], labels: Array, key: Array
    ) -> dict[str, Any]:
        """Return the groups of classes that look alike to the frozen backbone."""
        found = self.groups.first(backbone, images, labels, key)
        return {f"groups/{name}": value for name, value in found.items()}

    def step(self, layer: nnx.Module, state: Any, ctx: Context) -> Any:
        """Apply a layer with its prompts; in training, keep the cosines of a guided one."""
        tokens, found = state if isinstance(state, tuple) else (state, ())
        prompt = self.normed(self.prompts[str(ctx.layer)][...])
        entering = prompt
        if ctx.key is not None and self.dropout:
            entering = ctx.dropout(over_batch(prompt, len(tokens.x)), self.dropout, "prompt")
        if ctx.key is not None and ctx.layer in self.guided:
            found = (*found, self.metric.cosines(layer, tokens, prompt, entering))
        if self.inserted and ctx.num_outputs is None and ctx.layer == max(map(int, self.prompts)):
            tokens = self.last(layer, tokens, entering, ctx)
        else:
            tokens = layer(tokens, ctx, extra_kv=entering, num_outputs=ctx.num_outputs)
        return (tokens, found) if ctx.key is not None else tokens

    def last(self, layer: nnx.Module, tokens: Tokens, prompt: Array, ctx: Context) -> Tokens:
        """Apply the last layer where pooling reads prompts, which then have outputs."""
        at, outer = tokens.num_prefix_tokens, ctx.hook
        if not self.mask:
            return layer(tokens.insert(prompt, at=at), ctx)

        def patches_only(site: str, y: Any, x: Array, ctx: Context) -> Any:
            y = outer(site, y, x, ctx)
            return (y[0], *(one[:, count:] for one in y[1:])) if site == "attn.qkv" else y

        count = prompt.shape[-2]
        patches = dataclasses.replace(tokens, x=tokens.x[:, at:], num_prefix_tokens=0)
        seeing = dataclasses.replace(ctx, hook=patches_only)
        own = layer(patches.insert(prompt, at=0), seeing, num_outputs=count)
        return layer(tokens, ctx, extra_kv=prompt).insert(own.x, at=at)

    def normed(self, prompt: Float[Array, "P D"]) -> Float[Array, "P D"]:
        """Return the prompts of a layer after `prompt_norm`."""
        if self.prompt_norm == "l2":
            return unit(prompt, 1e-6)
        return self.norm(prompt) if self.norm else prompt

    def predict(self, backbone: Backbone, state: Any, ctx: Context) -> dict[str, Array]:
        """Return the outputs, in training with "cosines" (B 2 P a guided layer, stacked)."""
        if not isinstance(state, tuple):
            return super().predict(backbone, state, ctx)
        tokens, found = state
        cosines = jnp.stack([jnp.stack(pair, 1) for pair in found], 1)  # B guided 2 P
        return super().predict(backbone, tokens, ctx) | {"cosines": cosines}

    def loss_terms(
        self, out: dict[str, Array], labels: Int[Array, " B *C"], criterion: Criterion, ctx: Context
    ) -> dict[str, Array]:
        """Return the loss of each image, the metric's share ("metric") included in training."""
        loss = criterion(out["logits"], labels)
        if "cosines" not in out:
            return {"loss": loss}
        if labels.ndim > 1:
            raise UserError(ONE_CLASS)
        real = jnp.ones(len(labels), bool) if ctx.mask is None else ctx.mask
        self.groups.follow(out["features"], labels, real, ctx)
        total = self.metric.loss(out["cosines"], self.groups.of(labels), real)
        return {"loss": loss + total, "metric": total}

    def loss(
        self, out: dict[str, Array], labels: Int[Array, " B *C"], criterion: Criterion, ctx: Context
    ) -> Float[Array, " B"]:
        """Return the loss of each image; the metric, a number of the batch, is added to each."""
        return self.loss_terms(out, labels, criterion, ctx)["loss"]
