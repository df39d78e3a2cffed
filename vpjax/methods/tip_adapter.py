"""Tip-Adapter: a few training images of each class, kept as features, vote beside CLIP's texts.

    keys    u(mean over passes of the features of each image)      C K D, made when a run begins
    A_bck = <u(f_b), key_ck>
    logits_bc = 100 <u(f_b), t_c> + alpha sum_k exp(-beta (1 - A_bck))

Nothing trains; `TipAdapterF` trains the keys. When training has ended, alpha and beta are searched
on the validation split. Zhang et al. 2022, arXiv 2207.09519.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.methods.zero_shot import HIGHEST, ZeroShot
from vpjax.nn.context import Context
from vpjax.nn.mop_similarity import unit

LOW = 0.1  # where the search begins
CHUNK = 128  # images that it compares at once


class TipAdapter(ZeroShot):
    """Zero-shot CLIP with a cache of training images.

    Args:
        shots: K, images of each class in the cache; None: `config.data.shots`.
        passes: over the images, each augmented anew as in training, that features are means of.
        alpha: weight of the cache, before the search.
        beta: sharpness of its votes, before the search.
        search: whether alpha and beta are searched on the validation split.
        search_scale: (beta, alpha) that the search goes up to, without reaching them.
        search_steps: numbers of values of beta and of alpha that it tries.
        logit_scale: of the texts' cosines; 0: exp(logit_scale) of the weights.

    Raises:
        UserError: for an option out of range, or a backbone that is not CLIP's.
    """

    for_any_classes = False
    keys_kind: type[nnx.Variable] = nnx.BatchStat  # saved with the run, and not trained

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        shots: int | None = None,
        passes: int = 10,
        alpha: float = 1.17,
        beta: float = 1.0,
        search: bool = True,
        search_scale: tuple[float, float] = (7.0, 3.0),
        search_steps: tuple[int, int] = (200, 20),
        logit_scale: float = 100.0,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, num_classes, rngs=rngs)
        if not shots or shots < 1:
            raise UserError(
                f"method.shots is {shots}: Tip-Adapter keeps so many images of each class. Set "
                "data.shots, such as 16"
            )
        if passes < 1 or min(search_steps) < 1 or min(search_scale) <= LOW or logit_scale < 0:
            raise UserError(
                f"method.passes is {passes}, search_steps {search_steps}, search_scale "
                f"{search_scale}, logit_scale {logit_scale}; expected 1 or more, 1 or more, more "
                f"than {LOW}, 0 or more"
            )
        self.start_passes, self.searches = passes, search
        self.alpha_start, self.beta_start = alpha, beta
        self.grids = tuple(
            tuple(LOW + i * (top - LOW) / steps for i in range(steps))
            for top, steps in zip(search_scale, search_steps, strict=True)
        )
        self.logit_scale = logit_scale
        shape = (num_classes, shots)
        self.keys = self.keys_kind(unit(jax.random.normal(rngs.params(), (*shape, backbone.dim))))
        self.begun = nnx.BatchStat(jnp.zeros(()))
        # Saved too: which places of the cache hold an image (none yet: zero-shot CLIP), and what
        # the search has found.
        self.filled = nnx.BatchStat(jnp.zeros(shape))
        self.alpha = nnx.BatchStat(jnp.float32(alpha))
        self.beta = nnx.BatchStat(jnp.float32(beta))

    @property
    def logit_description(self) -> str:
        """What logits are, for reports."""
        scale = f"{self.logit_scale:g}" if self.logit_scale else "exp(logit_scale)"
        return f"{scale} cosines and the cache's votes"

    def choose_images(
        self, labels: Int[np.ndarray, " n *C"], rng: np.random.Generator
    ) -> Int[np.ndarray, " S"]:
        """Return all training images, which must be at most K of each class."""
        if labels.ndim > 1:
            raise UserError(
                "Tip-Adapter needs one class an image, and images of this data set have several. "
                "Choose another method, such as clip_adapter.CLIPAdapter."
            )
        most, (_, shots) = np.bincount(labels).max(), self.filled.shape
        if most > shots:
            raise UserError(
                f"Tip-Adapter's cache has {shots} places a class (method.shots), and class "
                f"{np.bincount(labels).argmax()} has {most} training images. Set data.shots={shots}"
            )
        return np.arange(len(labels))

    def start_values(
        self, backbone: Backbone, images: Float[Array, "S D"], labels: Array, key: Array
    ) -> dict[str, Any]:
        """Return the keys and which of them hold an image; `images` are mean features."""
        order = jnp.argsort(labels, stable=True)
        sorted_labels = labels[order]
        place = jnp.arange(len(labels)) - jnp.searchsorted(sorted_labels, sorted_labels)
        at = (sorted_labels, place)
        keys = jnp.zeros(self.keys.shape).at[at].set(unit(images[order]))
        return {"keys": keys, "filled": jnp.zeros(self.filled.shape).at[at].set(1.0)}

    def classify(self, features: Float[Array, "B D"], ctx: Context) -> dict[str, Array]:
        """Return "logits" (B C), "cache" (B C), and "features" (B D), of length 1."""
        f = unit(features.astype(jnp.float32))
        alpha, beta = self.alpha[...], self.beta[...]
        if ctx.key is not None:  # keys are trained with those of before the search
            alpha, beta = self.alpha_start, self.beta_start
        votes = self.votes(self.affinity(f), beta)
        return {"logits": self.texts(f) + alpha * votes, "cache": votes, "features": f}

    def texts(self, f: Float[Array, "B D"]) -> Float[Array, "B C"]:
        """Return the logits of features of length 1 without the cache."""
        return (self.logit_scale or self.scale[...]) * self.cosines(f)

    def affinity(self, f: Float[Array, "B D"]) -> Float[Array, "B C K"]:
        """Return the products of features with the keys."""
        return jnp.einsum("bd,ckd->bck", f, self.keys[...], precision=HIGHEST)

    def votes(self, affinity: Float[Array, "B C K"], beta: Array | float) -> Float[Array, "B C"]:
        """Return what the cache adds to each class."""
        return (jnp.exp(-beta * (1 - affinity)) * self.filled[...]).sum(-1)

    def search(self, features: Float[Array, "n D"], labels: Int[Array, " n"]) -> dict[str, Array]:
        """Return the alpha and beta with most images right; of equal ones the first, by beta.

        Where no pair has one right both are 0, as published.
        """
        betas, alphas = (jnp.asarray(grid, jnp.float32) for grid in self.grids)

        def right(one):
            feature, label = one
            f = unit(feature[None].astype(jnp.float32))
            texts, affinity = self.texts(f), self.affinity(f)

            def with_beta(beta):
                logits = texts + alphas[:, None] * self.votes(affinity, beta)  # alphas C
                return logits.argmax(-1) == label

            return jax.lax.map(with_beta, betas)

        def some(start):
            rows = start + jnp.arange(CHUNK)
            real = rows < len(labels)
            rows = jnp.minimum(rows, len(labels) - 1)
            found = jax.vmap(right)((features[rows], labels[rows]))
            return (found & real[:, None, None]).sum(0)

        counts = jax.lax.map(some, jnp.arange(0, len(labels), CHUNK)).sum(0)
        best = jnp.unravel_index(counts.argmax(), counts.shape)
        any_right = counts.max() > 0
        return {
            "alpha": jnp.where(any_right, alphas[best[1]], 0.0),
            "beta": jnp.where(any_right, betas[best[0]], 0.0),
        }


class TipAdapterF(TipAdapter):
    """Tip-Adapter whose keys train from the cache, with the alpha and beta of before the search.

    The keys are not normalised again.
    """

    trainable = r"method/keys"
    keys_kind = nnx.Param
