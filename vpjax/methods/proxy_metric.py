"""A metric loss: images near to their own proxies and far from others; DA-VPT's.

    s = cosine of an image's embedding and a proxy, scaled
    embeddings: the mean patch, and the class token; proxies: prompts of the layer

Ren et al. 2025, arXiv 2505.23694; "anchor" is Kim et al. 2020, arXiv 2003.13911.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from vpjax.core.errors import unknown
from vpjax.nn.tokens import Tokens

CRITERIA = ("anchor", "nca")
PROXIES = ("prompt", "query", "key")
EMBEDDINGS = ("query", "key", "output")


@dataclasses.dataclass(frozen=True)
class ProxyMetric:
    """The metric of a layer's tokens and prompts, and its settings.

    Attributes:
        criterion: "anchor" or "nca", see `metric`.
        scale: factor of cosines.
        weights: of the metric of patches and of class tokens.
        proxies: what each of them is compared with: "prompt", or its mean "query" or "key".
        class_embedding: what stands for the class token: its "query", "key", or itself, "output".
        margins: `pos_alpha`, `neg_alpha`, `pos_delta`, `neg_delta` of `metric`.

    Raises:
        UserError: for a name that there is not.
    """

    criterion: str
    scale: float
    weights: tuple[float, float]
    proxies: tuple[str, str]
    class_embedding: str
    margins: tuple[float, float, float, float]

    def __post_init__(self):
        for option, value, known in (
            ("criterion", self.criterion, CRITERIA),
            ("class_embedding", self.class_embedding, EMBEDDINGS),
            ("patch_proxies", self.proxies[0], PROXIES),
            ("class_proxies", self.proxies[1], PROXIES),
        ):
            if value not in known:
                raise unknown(option, value, known)

    def cosines(
        self,
        layer: nnx.Module,
        tokens: Tokens,
        prompt: Float[Array, "P D"],
        entering: Float[Array, "... P D"],
    ) -> tuple[Float[Array, "B P"], Float[Array, "B P"]]:
        """Return the scaled cosines of the mean patch, and of the class token, with each prompt.

        Args:
            layer: a block.
            tokens: that enter it.
            prompt: of the layer.
            entering: the same as it enters, with dropout.
        """

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

    def loss(
        self,
        cosines: Float[Array, "B layers 2 P"],
        own: Bool[Array, "B P"],
        real: Bool[Array, " B"],
    ) -> Float[Array, ""]:
        """Return the weighted metric of patches and class tokens, the mean over layers.

        Args:
            cosines: of every guided layer, as `cosines` returns them.
            own: which proxy is an image's own.
            real: False for images that only pad the batch.
        """
        total = 0.0
        for layer in range(cosines.shape[1]):
            for which, weight in enumerate(self.weights):
                s = cosines[:, layer, which]
                total += weight * metric(s, own, real, self.criterion, *self.margins)
        return total / cosines.shape[1]


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
    """Return how far images are from their own proxies and near to others.

        mean log(1 + sum exp(-pos_alpha (s - pos_delta)))     over images and their own proxies
      + mean log(1 + sum exp( neg_alpha (s - neg_delta)))     over images and other proxies

    Args:
        s: scaled cosines of images and proxies.
        own: which proxy is an image's own.
        real: False for images that only pad the batch.
        criterion: "anchor" sums over images and takes the mean over proxies, those without an
            image included; "nca" sums over proxies and takes the mean over images.
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
