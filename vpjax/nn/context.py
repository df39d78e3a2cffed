"""What a call needs besides data: randomness, progress, where in the network we are.

A Context is made inside `jit` and closed over; it never crosses a JAX boundary, so it is not a
pytree. Keys are folded from the layer's index and a tag, so that rematerialisation repeats them
exactly and no module stores randomness.
"""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Context:
    """Evaluation by default; training passes a `key`."""

    key: Any = None  # None: evaluation, nothing is random
    progress: Any = 0.0  # share of training done, 0 to 1
    layer: int | None = None  # index of the current layer, None outside layers
    num_outputs: int | None = None  # leading tokens this layer must return, None: all
    noisy_backbone: bool = False  # the backbone's dropout acts and its BatchNorm sees the batch
    mask: Any = None  # B, which images are real and no padding; None: all
    hook: Callable = lambda site, y, x, ctx: y

    def at(self, i: int, num_outputs: int | None = None) -> "Context":
        """Return the context of layer `i`."""
        key = None if self.key is None else jax.random.fold_in(self.key, i)
        return dataclasses.replace(self, layer=i, key=key, num_outputs=num_outputs)

    def branch(self, tag: str) -> "Context":
        """Return a context with randomness of its own, for another pass through the same layer."""
        if self.key is None:
            return self
        return dataclasses.replace(self, key=jax.random.fold_in(self.key, zlib.crc32(tag.encode())))

    def tap(self, site: str, y: jax.Array, x: jax.Array) -> jax.Array:
        """Let the method see, and replace, the output `y` a site computed from `x`."""
        return self.hook(site, y, x, self)

    def dropout(self, x: jax.Array, rate: float, tag: str) -> jax.Array:
        """Zero elements with probability `rate` and scale the rest by 1 / (1 - rate).

        Two places of one layer need different tags.
        """
        if self.key is None or rate == 0.0:
            return x
        key = jax.random.fold_in(self.key, zlib.crc32(tag.encode()))
        return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)

    def backbone_dropout(self, x: jax.Array, rate: float, tag: str) -> jax.Array:
        """Dropout of the backbone: silent while the backbone is frozen."""
        return self.dropout(x, rate, tag) if self.noisy_backbone else x

    def drop_path(self, x: jax.Array, rate: float, tag: str) -> jax.Array:
        """Stochastic depth of the backbone: drops a branch of whole images, silent when frozen."""
        if self.key is None or rate == 0.0 or not self.noisy_backbone:
            return x
        key = jax.random.fold_in(self.key, zlib.crc32(tag.encode()))
        kept = jax.random.bernoulli(key, 1 - rate, (len(x), *(1,) * (x.ndim - 1)))
        return jnp.where(kept, x / (1 - rate), 0)

    @property
    def batch_statistics(self) -> bool:
        """Whether BatchNorm of the backbone uses the batch's own mean and variance."""
        return self.key is not None and self.noisy_backbone


EVALUATION = Context()
