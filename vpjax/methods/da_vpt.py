"""DA-VPT: deep prompts, of which those of the guided layers also stand for groups of classes.

    layer i     [ cls | norm P_i | patches ]                               as VPT
    guided      s = scale cos(embedding of an image, prompt j)             image: its class token's
                loss = cross entropy + mean over guided layers of          query, or mean of patches
                       patch_weight metric(s patches) + class_weight metric(s class token)

Each class belongs to one prompt (`mapping`); the metric, in training only, pulls its images to that
one and pushes others off, see `metric`. Classes that look alike share a prompt: k-means of class
means of the frozen backbone's features. Ren et al. 2025, arXiv 2505.23694.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError, unknown
from vpjax.methods.base import Criterion, Method
from vpjax.methods.cvpt import stacked_bound
from vpjax.nn.context import EVALUATION, Context
from vpjax.nn.kmeans import kmeans
from vpjax.nn.layers import LayerNorm, layer_norm
from vpjax.nn.stack import run_layers
from vpjax.nn.tokens import Tokens, over_batch

PROXIES = ("prompt", "query", "key")
BIASES = {"q": "attn/query", "k": "attn/key", "v": "attn/value", "proj": "attn/out"}
BIASES |= {n: n for n in ("norm1", "norm2")} | {n: f"mlp/{n}" for n in ("fc1", "fc2")}
IMAGES = 10  # of a class, from which its mean is computed


class DAVPT(Method):
    """Distribution-aware visual prompt tuning: deep prompts, guided by a metric loss.

    Args:
        num_tokens: prompts of a layer that is not guided.
        num_proxies: prompts of a guided layer; at most one a class.
        first_guided: index of the first guided layer; None: the last layer.
        last_guided: of the last one; None: the last layer.
        criterion: "anchor" or "nca", see `metric`.
        patch_weight: of the metric of patches.
        class_weight: of the metric of class tokens.
        scale: factor of cosines.
        pos_alpha, neg_alpha, pos_delta, neg_delta: see `metric`.
        class_embedding: what stands for the class token: its "query", "key", or itself, "output".
        class_proxies: what it is compared with: "prompt", or the mean "query" or "key" of each.
        patch_proxies: what the mean of patches is compared with, likewise.
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
        prompt_norm: str = "none",
        mask: bool = False,
        biases: tuple[str, ...] = (),
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        **inherited,
    ):
        sites, depth = backbone.sites, len(backbone.sites)
        plain = "attn.qkv" in backbone.taps and len({s.dim for s in sites}) == 1
        if not plain or getattr(backbone, "cls_token", None) is None:
            raise UserError(
                "DA-VPT compares class tokens, queries and prompts of layers of one width, which "
                f"{type(backbone).__name__} has not. Use a ViT with a class token, or vpt.VPT."
            )
        names = ("none", "l2", "layer")
        for option, value, known in (
            ("criterion", criterion, ("anchor", "nca")),
            ("class_embedding", class_embedding, ("query", "key", "output")),
            ("class_proxies", class_proxies, PROXIES),
            ("patch_proxies", patch_proxies, PROXIES),
            ("prompt_norm", prompt_norm, names),
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
        self.criterion, self.weights, self.scale = criterion, (patch_weight, class_weight), scale
        self.margins = pos_alpha, neg_alpha, pos_delta, neg_delta
        self.class_embedding, self.proxies = class_embedding, (patch_proxies, class_proxies)
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
            bound = stacked_bound(alike, count, s.dim)
            drawn = jax.random.uniform(rngs.params(), (count, s.dim), minval=-bound, maxval=bound)
            self.prompts[str(s.index)] = nnx.Param(drawn)
        # Not trained; `start_values` puts classes that look alike together.
        self.mapping = nnx.Variable(jnp.arange(num_classes) % self.num_proxies)

    def choose_images(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the numbers of up to `IMAGES` training images of each class."""
        order = rng.permutation(len(labels))
        return np.concatenate([order[labels[order] == c][:IMAGES] for c in np.unique(labels)])

    def start_values(
        self, backbone: Backbone, images: Float[Array, "S H W C"], labels: Array, key: Array
    ) -> dict[str, Any]:
        """Return the mapping that k-means of the classes' mean features gives."""
        classes = len(self.mapping[...])
        if self.num_proxies == classes:
            return {"mapping": jnp.arange(classes)}

        def features(image):
            tokens = backbone.embed(image[None], EVALUATION)
            step = lambda layer, x, ctx: layer(x, ctx, num_outputs=ctx.num_outputs)  # noqa: E731
            tokens = run_layers(backbone.layers, tokens, step, EVALUATION, 1)
            return backbone.pool(tokens, slice(0, 1))[0].astype(jnp.float32)

        rows = jax.nn.one_hot(labels, classes)
        sums = rows.T @ jax.lax.map(features, images, batch_size=16)
        means = sums / jnp.maximum(rows.sum(0)[:, None], 1)
        means = layer_norm(means, jnp.ones(means.shape[1]), jnp.zeros(means.shape[1]), 1e-5)
        order = jax.random.permutation(key, classes)
        groups = kmeans(means[order], self.num_proxies, cosine=True)[1]
        return {"mapping": jnp.zeros(classes, jnp.int32).at[order].set(groups)}

    def step(self, layer: nnx.Module, state: Any, ctx: Context) -> Any:
        """Apply a layer with its prompts; in training, keep the cosines of a guided one."""
        tokens, found = state if isinstance(state, tuple) else (state, ())
        prompt = self.normed(self.prompts[str(ctx.layer)][...])
        entering = prompt
        if ctx.key is not None and self.dropout:
            entering = ctx.dropout(over_batch(prompt, len(tokens.x)), self.dropout, "prompt")
        if ctx.key is not None and ctx.layer in self.guided:
            found = (*found, self.cosines(layer, tokens, prompt, entering))
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

    def cosines(
        self, layer: nnx.Module, tokens: Tokens, prompt: Array, entering: Array
    ) -> tuple[Float[Array, "B P"], Float[Array, "B P"]]:
        """Return the scaled cosines of the mean patch, and of the class token, with each prompt."""

        def projected(name, x):  # the heads side by side
            y = getattr(layer.attn, name)(layer.norm1(x))
            return y.reshape(*y.shape[:-2], -1)

        def proxy(name):
            if name == "prompt":
                return prompt
            rows = projected(name, entering.astype(tokens.x.dtype))
            return rows.mean(0) if rows.ndim == 3 else rows

        cls = tokens.x[:, 0]
        cls = cls if self.class_embedding == "output" else projected(self.class_embedding, cls)
        patches = tokens.x[:, tokens.num_prefix_tokens :].astype(jnp.float32).mean(1)
        pairs = zip((patches, cls), self.proxies, strict=True)
        return tuple(self.scale * unit(x) @ unit(proxy(name)).T for x, name in pairs)

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
            raise UserError(
                "da_vpt.DAVPT needs one class an image, and images of this data set have several. "
                "Choose another method, such as vpt.VPT."
            )
        real = jnp.ones(len(labels), bool) if ctx.mask is None else ctx.mask
        group = jax.nn.one_hot(self.mapping[...][labels], self.num_proxies, dtype=bool)
        total = 0.0
        for layer in range(len(self.guided)):
            for which, weight in enumerate(self.weights):
                s = out["cosines"][:, layer, which]
                total += weight * metric(s, group, real, self.criterion, *self.margins)
        total = total / len(self.guided)
        return {"loss": loss + total, "metric": total}

    def loss(
        self, out: dict[str, Array], labels: Int[Array, " B *C"], criterion: Criterion, ctx: Context
    ) -> Float[Array, " B"]:
        """Return the loss of each image; the metric, a number of the batch, is added to each."""
        return self.loss_terms(out, labels, criterion, ctx)["loss"]


def metric(
    s: Float[Array, "B P"],
    own: Bool[Array, "B P"],
    real: Bool[Array, " B"],
    criterion: str,
    pos_alpha: float,
    neg_alpha: float,
    pos_delta: float,
    neg_delta: float,
) -> Float[Array, ""]:
    """Return how far images are from their prompts and near to others.

        mean log(1 + sum exp(-pos_alpha (s - pos_delta)))     over images and their own prompts
      + mean log(1 + sum exp( neg_alpha (s - neg_delta)))     over images and other prompts

    Args:
        s: scaled cosines of images and prompts.
        own: which prompt is an image's own.
        real: False for images that only pad the batch.
        criterion: "anchor" sums over images and takes the mean over prompts, those without an
            image included; "nca" sums over prompts and takes the mean over images.
        pos_alpha, neg_alpha, pos_delta, neg_delta: see above.
    """
    s, real = s.astype(jnp.float32), real[:, None]
    sides = ((own, -pos_alpha * (s - pos_delta)), (~own, neg_alpha * (s - neg_delta)))
    total = 0.0
    for chosen, exponent in sides:
        axis = 0 if criterion == "anchor" else 1
        exponent = jnp.where(chosen & real, exponent, -jnp.inf)
        one = jnp.zeros_like(exponent.take(jnp.array([0]), axis))  # the 1 in the logarithm
        sums = jax.nn.logsumexp(jnp.concatenate([one, exponent], axis), axis=axis)
        if criterion == "anchor":
            total += sums.mean()
        else:
            total += jnp.where(real[:, 0], sums, 0).sum() / jnp.maximum(real.sum(), 1)
    return total


def unit(x: Float[Array, "... D"], eps: float = 1e-12) -> Float[Array, "... D"]:
    """Return vectors of length 1 in float32; `eps` is the least length that is divided by."""
    x = x.astype(jnp.float32)
    square = jnp.square(x).sum(-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(square, eps**2))
