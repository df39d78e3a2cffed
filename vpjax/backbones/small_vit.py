"""The ViT-Tiny for small images, trained from scratch, in MS-VP's code (arXiv 2512.03663).

A ViT (`vpjax.backbones.vit`) with a LayerNorm epsilon of 1e-5, dropout in attention too, and the
initialisation of torch: dense layers of blocks and their biases U(-1, 1) / sqrt(inputs), the patch
convolution N(0, 2 / fan out), its bias 0, class token and positions N(0, 0.02^2).
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from vpjax.backbones.vit import ViT
from vpjax.nn.layers import Dense


class SmallViT(ViT):
    """A ViT with the options of `vit.ViT`.

    Published: variant "Ti/4" for 32 pixels, "Ti/7" for 28, and one rate for all dropout.
    """

    def __init__(
        self,
        variant: str = "Ti/4",
        image_size: int | tuple[int, int] = 32,
        *,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        eps: float = 1e-5,
        rngs: nnx.Rngs,
        **inherited,
    ):
        rates = {"dropout": dropout, "attention_dropout": attention_dropout}
        super().__init__(variant, image_size, **rates, eps=eps, rngs=rngs, **inherited)
        for layer in self.layers:
            attn, mlp = layer.attn, layer.mlp
            for dense in (attn.query, attn.key, attn.value, attn.out, mlp.fc1, mlp.fc2):
                _initialise(dense, rngs)
        normal, kernel = jax.random.normal, self.patch_embed.kernel
        spread = math.sqrt(2 / (self.dim * math.prod(self.patch_size)))
        kernel[...] = spread * normal(rngs.params(), kernel.shape)
        self.cls_token[...] = 0.02 * normal(rngs.params(), self.cls_token.shape)


def _initialise(dense: Dense, rngs: nnx.Rngs) -> None:
    bound = 1 / math.sqrt(math.prod(dense.kernel.shape[: dense.inputs]))
    for param in (dense.kernel, dense.bias):
        param[...] = jax.random.uniform(rngs.params(), param.shape, jnp.float32, -bound, bound)
