"""SPT: deep or shallow VPT whose prompts start as patch tokens of the training set.

    prompts of layer i  <-  N tokens of the grid that enter layer i of the frozen backbone
                            (layer 0: before positions), drawn from S images

Wang et al. 2024, arXiv 2402.02382. The published code draws as many images as the training set has,
with replacement; here a bounded sample stands for it. On a backbone that pools the mean of its
tokens, prompts included (MAE), the mean comes first and the last norm after it, which there is the
pretrained one: `backbone.final_norm=True, backbone.fc_norm=False`. Prompts are made once, when a
run begins: what a run has learnt is kept, and a model that was never trained gets them.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError, unknown
from vpjax.methods.gate_vpt import pool_mean
from vpjax.methods.vpt import VPT
from vpjax.nn.context import EVALUATION, Context
from vpjax.nn.kmeans import kmeans
from vpjax.nn.stack import run_layers
from vpjax.nn.tokens import Tokens

SAMPLES = ("random", "mean_pooling", "max_pooling", "kmeans")


class SPT(VPT):
    """Self-prompt tuning: VPT with prompts made from patch tokens of the training set.

    Args:
        sample: "random" tokens; "mean_pooling" or "max_pooling" of windows of consecutive ones;
            "kmeans", centres of all, by which the paper explains the method.
        sample_images: S.

    Raises:
        UserError: for options that do not go together or do not suit the backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        num_tokens: int = 20,
        sample: str = "random",
        sample_images: int = 256,
        rngs: nnx.Rngs,
        **inherited,
    ):
        if sample not in SAMPLES:
            raise unknown("sample", sample, SAMPLES)
        if sample_images < 1:
            raise UserError(f"sample_images is {sample_images}; give at least 1")
        if inherited.get("projection_dim") or inherited.get("deep_shared"):
            raise UserError("SPT's prompts are tokens of their layer: leave projection_dim and "
                            "deep_shared out, or use vpt.VPT")  # fmt: skip
        super().__init__(backbone, num_classes, num_tokens=num_tokens, rngs=rngs, **inherited)
        if "pooling" in sample and num_tokens - 1 not in range(1, 1 + windowed(backbone, self.at)):
            raise UserError(
                f"sample={sample!r} makes num_tokens - 1 windows of at least one of a layer's "
                f"tokens, and num_tokens is {num_tokens}. Use sample='random'."
            )
        self.sample, self.sample_images = sample, sample_images
        self.begun = nnx.BatchStat(jnp.zeros(()))
        self.norm_last = getattr(backbone, "pooling", "") == "mean_prompts"

    def choose_images(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return `sample_images` numbers of training images, drawn with replacement."""
        return rng.integers(len(labels), size=self.sample_images)

    def start_values(
        self, backbone: Backbone, images: Float[Array, "S H W C"], labels: Array, key: Array
    ) -> dict[str, Any]:
        """Return the prompts that are made from these images."""
        noise = lambda i, n: jax.random.uniform(jax.random.fold_in(key, i), (n,))  # noqa: E731
        made = self_prompts(backbone, images, self.at, self.num_tokens, self.sample, noise)
        return {f"prompts/{i}": value for i, value in made.items()}

    def predict(self, backbone: Backbone, state: Tokens, ctx: Context) -> dict[str, Array]:
        """Return the outputs for the class token, or for the norm of the mean of all others."""
        if self.pool != "original" or not self.norm_last:
            return super().predict(backbone, state, ctx)
        return self.classify(pool_mean(backbone, state, slice(self.num_prefix_tokens, None)), ctx)


def windowed(backbone: Backbone, at: Iterable[int]) -> int:
    """Return the smallest number of grid tokens of these layers."""
    return min(int(np.prod(backbone.sites[i].grid)) for i in at)


def self_prompts(
    backbone: Backbone,
    images: Float[Array, "S H W C"],
    at: Iterable[int],
    count: int,
    sample: str,
    noise: Callable[[int, int], Array],
) -> dict[int, Float[Array, "N D"]]:
    """Return the prompts of each layer of `at`, made of the tokens that enter it.

    Args:
        backbone: the frozen backbone.
        images: normalised.
        at: layers.
        count: N, prompts of a layer.
        sample: a name of `SAMPLES`.
        noise: layer, n -> n numbers whose order is a random permutation.
    """
    at, made = set(at), {}
    tokens, patches = backbone.embed(images, EVALUATION), None
    if getattr(backbone, "pos_embed", None) is not None:
        patches = backbone.patchify(images, EVALUATION)

    def step(layer, tokens, ctx):
        grid = tokens.x[:, tokens.num_prefix_tokens :]
        grid = patches if ctx.layer == 0 and patches is not None else grid
        if ctx.layer in at:
            grid = grid.reshape(len(images), -1, grid.shape[-1]).astype(jnp.float32)
            made[ctx.layer] = chosen(grid, count, sample, lambda n: noise(ctx.layer, n))
        return layer(tokens, ctx)

    run_layers(backbone.layers[: max(at) + 1], tokens, step, EVALUATION)
    return made


def chosen(
    tokens: Float[Array, "S T D"], count: int, sample: str, noise: Callable[[int], Array]
) -> Float[Array, "N D"]:
    """Return N rows made of tokens; see `self_prompts`."""
    rows = tokens
    if "pooling" in sample:
        length = tokens.shape[1]
        width = length // (count - 1)
        rest = length % width
        # Where nothing is left over, the published slice [-0:] is everything.
        parts = [tokens[:, i * width : (i + 1) * width] for i in range(count - 1)]
        parts.append(tokens[:, -rest:])
        rows = jnp.stack([p.mean(1) if sample == "mean_pooling" else p.max(1) for p in parts])
    rows = rows.reshape(-1, tokens.shape[-1])
    order = noise(len(rows)).argsort()
    if sample == "kmeans":
        return kmeans(rows[order], count)[0]
    return rows[order[:count]]
