"""IVLP: prompts in both towers of CLIP, which learn independently of each other.

    text    [start | ctx_i | more words, name, . | end]  ->  layer i, i < text_depth
    image   [cls | prompts_i | patches]                  ->  layer i, i < vision_depth

With `vision_depth=0` only texts are prompted. Khattak et al. 2023, arXiv 2210.03117.
"""

from collections.abc import Mapping
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.methods.class_texts import (
    ClassTexts,
    Sentences,
    check_context,
    context_words,
    drawn,
)
from vpjax.methods.clip_cosines import _TextPrompted, check_depth


class IVLP(_TextPrompted):
    """Independent vision-language prompting: prompts of texts and of images, at several layers.

    Args:
        text_tokens: tokens of the context; with fewer than `init_words` has, the other words stay.
        text_depth: layers of the text tower that have a context of their own, at least 1.
        vision_tokens: prompts of an image at a layer.
        vision_depth: layers of the image tower with prompts; 0: none, then `vision_tokens` is 0.
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
        text_tokens: int = 2,
        text_depth: int = 12,
        vision_tokens: int = 2,
        vision_depth: int = 12,
        init_words: str = "a photo of a",
        texts: ClassTexts | None = None,
        rngs: nnx.Rngs,
    ):
        check_context(init_words, text_tokens, "text_tokens")
        if (vision_tokens > 0) != (vision_depth > 0) or vision_tokens < 0:
            raise UserError(
                f"vision_tokens is {vision_tokens} and vision_depth {vision_depth}; give both at "
                "least 1, or both 0 for prompts of texts only"
            )
        super().__init__(backbone, texts=texts, num_tokens=text_tokens, vision_depth=vision_depth)
        check_depth("text_depth", text_depth, 1, len(self.texts.tower.layers))
        check_depth("vision_depth", vision_depth, 0, len(backbone.layers))
        width, wide = self.texts.width, backbone.sites[0].dim
        self.ctx = self.start_context(init_words, rngs)
        self.text_prompts = nnx.Dict(
            {str(i): drawn(rngs, text_tokens, width) for i in range(1, text_depth)}
        )
        self.prompts = nnx.Dict(
            {str(i): drawn(rngs, vision_tokens, wide) for i in range(vision_depth)}
        )

    @classmethod
    def sentences(cls, options: Mapping[str, Any]) -> Sentences:
        """Return the context that stands before a name."""
        return Sentences(context_words(options, "text_tokens"))

    def vision_prompt(self, layer: int) -> Float[Array, "P D"]:
        """Return the prompts of images at a layer."""
        return self.prompts[str(layer)][...]
