"""CoOp: the words around class names are learnt, as embeddings that CLIP's text tower takes.

    [start | ctx_1 .. ctx_n | name | . | end]  ->  text tower  ->  t_c       the same ctx for all
    logits = s <unit(f), t_c>                                                classes, or one each

All C texts are encoded at every step, with gradients through the whole tower; images need none.
Zhou et al. 2022, arXiv 2109.01134.
"""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.methods.class_texts import (
    ClassTexts,
    Sentences,
    check_context,
    context_words,
    drawn,
)
from vpjax.methods.clip_cosines import _TextPrompted


class CoOp(_TextPrompted):
    """Context optimisation: a learnt context before, around or behind the names of classes.

    Args:
        num_tokens: n, tokens of the context; as many as `init_words` has words, where it has any.
        init_words: words that the context starts from, such as "a photo of a"; "": N(0, 0.02^2).
        class_specific: whether each class has a context of its own; needs a random start.
        position: where the name stands: at the "end", in the "middle" of the context, in "front".
        texts: from the builder.

    Raises:
        UserError: for options that do not go together, or a backbone that is not CLIP's.
    """

    trains_after_pooling = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        num_tokens: int = 16,
        init_words: str = "",
        class_specific: bool = False,
        position: str = "end",
        texts: ClassTexts | None = None,
        rngs: nnx.Rngs,
    ):
        words = len(init_words.split())
        check_context("", num_tokens, "num_tokens")
        if words and class_specific:
            raise UserError(
                "class_specific contexts start at random: init_words would make one for all "
                "classes. Set init_words='', or class_specific=False."
            )
        count = words or num_tokens
        super().__init__(backbone, texts=texts, num_tokens=count, position=position)
        self.for_any_classes = not class_specific
        if class_specific:
            self.ctx = drawn(rngs, num_classes, count, self.texts.width)
        else:
            self.ctx = self.start_context(init_words, rngs)

    @classmethod
    def sentences(cls, options: Mapping[str, Any]) -> Sentences:
        """Return the context that stands before a name."""
        return Sentences(context_words(options, "num_tokens"))
