"""What a forward pass needs besides data: randomness, training progress, the current layer.

A Context is made inside `jit` and closed over; it never crosses a JAX boundary, so it is not a
pytree. Keys are folded from the layer's index and a tag, so that rematerialisation repeats them
exactly and no module stores randomness.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Context:
    """The state of one forward pass; evaluation by default, training passes a `key`.

    Attributes:
        key: a PRNG key; None: evaluation, nothing is random.
        progress: share of the training steps done, 0 to 1.
        epoch: passes over the training images done; 0 where the length of one is not known.
        layer: index of the current layer; None outside layers.
        num_outputs: leading tokens that the current layer must return; None: all.
        noisy_backbone: whether the backbone's dropout acts and its BatchNorm uses the batch.
        mask: bool B, False for images that only pad the batch; None: all are real.
        hook: called by `tap` with site, output, input and context; returns the output to use.
        linear: in a hook, the linear layer (`vpjax.nn.layers.Dense`) whose output it gets, for
            those who need its frozen weights; None at sites that are no linear layer.
        settled: what a method computed once for many batches, see `Method.settle`; {}: nothing.
        remat: what the backward pass recomputes, for layers that a method runs by itself.
    """

    key: Any = None
    progress: Any = 0.0
    epoch: Any = 0.0
    layer: int | None = None
    num_outputs: int | None = None
    noisy_backbone: bool = False
    mask: Any = None
    hook: Callable = lambda site, y, x, ctx: y
    linear: Any = None
    settled: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    remat: str = "none"

    def at(self, i: int, num_outputs: int | None = None) -> "Context":
        """Return the context of layer `i`, which must return `num_outputs` tokens (None: all)."""
        key = None if self.key is None else jax.random.fold_in(self.key, i)
        return dataclasses.replace(self, layer=i, key=key, num_outputs=num_outputs)

    def branch(self, tag: str) -> "Context":
        """Return a context with other random numbers, for a second pass through the same layer."""
        if self.key is None:
            return self
        return dataclasses.replace(self, key=jax.random.fold_in(self.key, zlib.crc32(tag.encode())))

    def tap(self, site: str, y: Any, x: jax.Array, linear: Any = None) -> Any:
        """Let the method see, and replace, the output `y` that a site computed from `x`.

        Args:
            site: name of the place inside the layer, such as "attn.query"; see `Backbone.taps`.
            y: the output of that place, an array; of "attn.qkv" a tuple of three.
            x: its input.
            linear: the layer that computed y, if it is a linear one.
        """
        return self.hook(site, y, x, dataclasses.replace(self, linear=linear))

    def dropout(self, x: jax.Array, rate: float, tag: str) -> jax.Array:
        """Zero elements with probability `rate` and scale the rest by 1 / (1 - rate).

        Does nothing in evaluation.

        Args:
            x: any array.
            rate: probability, 0 to 1.
            tag: folded into the key, so two places of one layer need different tags.
        """
        if self.key is None or rate == 0.0:
            return x
        key = jax.random.fold_in(self.key, zlib.crc32(tag.encode()))
        return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)

    def backbone_dropout(self, x: jax.Array, rate: float, tag: str) -> jax.Array:
        """Apply dropout of the backbone, if `noisy_backbone` is on; see `dropout`."""
        return self.dropout(x, rate, tag) if self.noisy_backbone else x

    def drop_path(self, x: jax.Array, rate: float, tag: str) -> jax.Array:
        """Drop the branch `x` of whole images with probability `rate` (stochastic depth).

        Does nothing unless `noisy_backbone` is on; see `dropout` for the arguments. Huang et al.
        2016, arXiv 1603.09382.
        """
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
