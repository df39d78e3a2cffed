"""MaPLe: prompts of texts, and prompts of images that linear maps make of them.

    layer 0      text: ctx         image: proj(ctx)
    layer i      text: prompt_i    image: map_i(prompt_i)        i < depth

Gradients of both towers reach the prompts of texts, which couples the two. Where a tower has fewer
layers than `depth`, what is left over is unused there. Khattak et al. 2023, arXiv 2210.03117.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.methods.class_texts import (
    ClassTexts,
    Linear,
    Sentences,
    check_context,
    context_words,
    drawn,
)
from vpjax.methods.clip_cosines import _TextPrompted


class MaPLe(_TextPrompted):
    """Multi-modal prompt learning: prompts of both towers, coupled by linear maps.

    Args:
        num_tokens: tokens of the context, and prompts of an image; with fewer than `init_words`
            has, the other words stay.
        depth: layers of both towers with prompts, at least 1.
        init_words: words that the context starts from; "": N(0, 0.02^2), as all other prompts.
        texts: from the builder.

    Raises:
        UserError: for numbers that do not suit the towers, or a backbone that is not CLIP's.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        num_tokens: int = 2,
        depth: int = 9,
        init_words: str = "a photo of a",
        texts: ClassTexts | None = None,
        rngs: nnx.Rngs,
    ):
        check_context(init_words, num_tokens, "num_tokens")
        if depth < 1:
            raise UserError(f"depth is {depth}; give at least 1, the layers with prompts")
        layers = len(backbone.layers)
        shown = min(depth, layers)
        super().__init__(backbone, texts=texts, num_tokens=num_tokens, vision_depth=shown)
        width, wide = self.texts.width, backbone.sites[0].dim
        self.ctx = self.start_context(init_words, rngs)
        self.proj = Linear(width, wide, rngs=rngs)
        deep = [str(i) for i in range(1, depth)]
        self.text_prompts = nnx.Dict({i: drawn(rngs, num_tokens, width) for i in deep})
        one = Linear(width, wide, rngs=rngs)  # all maps start as copies of it
        self.maps = nnx.Dict({i: _copy(one, rngs) for i in deep})

    @classmethod
    def sentences(cls, options: Mapping[str, Any]) -> Sentences:
        """Return the context that stands before a name."""
        return Sentences(context_words(options, "num_tokens"))

    def vision_prompt(self, layer: int) -> Float[Array, "P D"]:
        """Return the prompts of images at a layer, made from those of texts."""
        if layer == 0:
            return self.proj(self.ctx[...])
        return self.maps[str(layer)](self.text_prompts[str(layer)][...])


def _copy(one: Linear, rngs: nnx.Rngs) -> Linear:
    out = Linear(*one.kernel.shape, rngs=rngs)
    out.kernel[...], out.bias[...] = jnp.copy(one.kernel[...]), jnp.copy(one.bias[...])
    return out
