"""ViT-B/4 on CIFAR-10: three ways to train a ViT resampled from 224 to 32 pixels.

    P     Prompts        prompts at every layer; everything trains but the layers: prompts, patch
                         embedding, class token, positions, last norm, head
    F     finetune.Full  no prompts; everything trains
    P+F   PromptsFull    prompts at every layer; everything trains

The prompts are those of deep VPT (Jia et al. 2022, arXiv 2203.12119), see `vpjax.methods.vpt`, but
for their initialisation: Xavier's rule over the width only. See docs/methods/vit_b4.md.
"""

import math

import jax
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone, Site
from vpjax.methods.vpt import VPT


class Prompts(VPT):
    """Deep prompts; everything trains but the backbone's layers. Options are those of `vpt.VPT`."""

    trainable = r"method/.*|backbone/(?!layers/).*"

    def draw(
        self, backbone: Backbone, count: int, site: Site, rngs: nnx.Rngs
    ) -> Float[Array, "P d"]:
        """Draw the initial prompts of a layer: U(-v, v), v = sqrt(6 / (D + D))."""
        width = self.width or site.dim
        bound = math.sqrt(6 / (2 * width))
        return jax.random.uniform(rngs.params(), (count, width), minval=-bound, maxval=bound)


class PromptsFull(Prompts):
    """Deep prompts and full fine-tuning: everything trains, and the backbone's dropout acts."""

    trainable = r".*"
    trainable_stats = r".*"
    backbone_dropout = True
