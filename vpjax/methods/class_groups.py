"""Groups of classes that look alike, by k-means over the classes' mean features.

    before training     means over a few images a class, of the backbone without its method
    regroup_from = e    from epoch e on also after every epoch, from the old centres: means over the
                        features that training has seen in it

Means are normalised, without scale and shift, and compared by angle. With as many groups as classes
each class is its own. The proxies of DA-VPT, arXiv 2505.23694, stand for such groups.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vpjax.backbones.base import Backbone
from vpjax.nn.context import EVALUATION, Context
from vpjax.nn.kmeans import kmeans
from vpjax.nn.layers import layer_norm
from vpjax.nn.stack import run_layers

IMAGES = 10  # of a class, from which its mean is computed at the start


class ClassGroups(nnx.Module):
    """Which group each class belongs to; all of it is saved with a run, and none is trained.

    Args:
        num_classes: C.
        num_groups: G, at most C.
        dim: D, width of the features.
        regroup_from: epoch from which the groups follow training; None: they stay.
    """

    def __init__(self, num_classes: int, num_groups: int, dim: int, regroup_from: int | None):
        self.count = num_groups
        self.fixed = num_groups == num_classes
        self.regroup_from = None if self.fixed else regroup_from
        # Running averages are floats in every file of a run, so these numbers of groups are too.
        self.of_class = nnx.BatchStat(jnp.arange(num_classes, dtype=jnp.float32) % num_groups)
        if self.regroup_from is not None:
            self.centres = nnx.BatchStat(jnp.zeros((num_groups, dim)))
            self.sums = nnx.BatchStat(jnp.zeros((num_classes, dim)))
            self.seen = nnx.BatchStat(jnp.zeros(num_classes))
            self.epoch = nnx.BatchStat(jnp.zeros(()))  # which the sums belong to

    def of(self, labels: Int[Array, " B"]) -> Bool[Array, "B G"]:
        """Return which group each image belongs to."""
        return jax.nn.one_hot(self.of_class[...].astype(jnp.int32)[labels], self.count, dtype=bool)

    def first(
        self, backbone: Backbone, images: Float[Array, "S H W C"], labels: Array, key: Array
    ) -> dict[str, Any]:
        """Return the groups that training begins with, by the names of this module's arrays.

        Args:
            backbone: the frozen backbone, without its method.
            images: normalised, some of each class.
            labels: theirs.
            key: draws the first centres.
        """
        classes = len(self.of_class[...])
        if self.fixed:
            return {}

        def features(image):
            tokens = backbone.embed(image[None], EVALUATION)
            step = lambda layer, x, ctx: layer(x, ctx, num_outputs=ctx.num_outputs)  # noqa: E731
            tokens = run_layers(backbone.layers, tokens, step, EVALUATION, 1)
            return backbone.pool(tokens, slice(0, 1))[0].astype(jnp.float32)

        rows = jax.nn.one_hot(labels, classes)
        means = normalised(rows.T @ jax.lax.map(features, images, batch_size=16), rows.sum(0))
        order = jax.random.permutation(key, classes)
        centres, groups = kmeans(means[order], self.count, cosine=True)
        found = {"of_class": jnp.zeros(classes).at[order].set(groups.astype(jnp.float32))}
        return found if self.regroup_from is None else found | {"centres": centres}

    def follow(
        self,
        features: Float[Array, "B D"],
        labels: Int[Array, " B"],
        real: Bool[Array, " B"],
        ctx: Context,
    ) -> None:
        """Add the features of a training batch; in a new epoch first group the classes anew.

        Args:
            features: of the model that trains.
            labels: theirs.
            real: False for images that only pad the batch.
            ctx: says the epoch.
        """
        if self.regroup_from is None:
            return
        now = jnp.floor(jnp.asarray(ctx.epoch, jnp.float32))
        sums, seen, groups = self.sums[...], self.seen[...], self.of_class[...]

        def regrouped():
            means = normalised(sums, seen)
            centres, found = kmeans(means, self.count, cosine=True, start=self.centres[...])
            return centres, jnp.where(seen > 0, found.astype(groups.dtype), groups)

        new = now > self.epoch[...]
        due = new & (self.epoch[...] >= self.regroup_from)
        centres, groups = jax.lax.cond(due, regrouped, lambda: (self.centres[...], groups))
        rows = jax.nn.one_hot(labels, len(seen)) * real[:, None]
        features = jax.lax.stop_gradient(features.astype(jnp.float32))
        self.centres[...], self.of_class[...], self.epoch[...] = centres, groups, now
        self.sums[...] = jnp.where(new, 0, sums) + rows.T @ features
        self.seen[...] = jnp.where(new, 0, seen) + rows.sum(0)


def some_of_each(labels: Int[np.ndarray, " n"], rng: np.random.Generator) -> np.ndarray:
    """Return the numbers of up to `IMAGES` images of each class."""
    order = rng.permutation(len(labels))
    return np.concatenate([order[labels[order] == c][:IMAGES] for c in np.unique(labels)])


def normalised(sums: Float[Array, "C D"], counts: Float[Array, " C"]) -> Float[Array, "C D"]:
    """Return the classes' means, each normalised over its channels."""
    means = sums / jnp.maximum(counts[:, None], 1)
    return layer_norm(means, jnp.ones(means.shape[1]), jnp.zeros(means.shape[1]), 1e-5)
