"""CoCoOp: CoOp's context, moved for each image by a small network that reads its feature.

    pi_b = linear2(relu(linear1(unit(f_b))))         D -> D / 16 -> width of the text tower
    t_bc = text tower of [start | ctx + pi_b | name_c | . | end],  logits_bc = s <unit(f_b), t_bc>

So B C texts are encoded at every step, and in evaluation too. Zhou et al. 2022, arXiv 2203.05557.
"""

from collections.abc import Mapping
from typing import Any

import jax
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
)
from vpjax.methods.clip_cosines import _TextPrompted
from vpjax.nn.context import Context
from vpjax.nn.mop_similarity import unit

REDUCTION = 16


class CoCoOp(_TextPrompted):
    """Conditional context optimisation: a context for each image before the names of classes.

    Args:
        num_tokens: n, tokens of the context; as many as `init_words` has words, where it has any.
        init_words: words that the context starts from, such as "a photo of a"; "": N(0, 0.02^2).
        texts: from the builder.

    Raises:
        UserError: if features are narrower than 16, or the backbone is not CLIP's.
    """

    trains_after_pooling = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        num_tokens: int = 4,
        init_words: str = "",
        texts: ClassTexts | None = None,
        rngs: nnx.Rngs,
    ):
        words = len(init_words.split())
        check_context("", num_tokens, "num_tokens")
        count = words or num_tokens
        super().__init__(backbone, texts=texts, num_tokens=count)
        hidden = backbone.dim // REDUCTION
        if not hidden:
            raise UserError(
                f"CoCoOp's network has a hidden layer of 1 / {REDUCTION} of the features, which "
                f"are {backbone.dim} wide here: nothing is left. Use coop.CoOp."
            )
        width = self.texts.width
        self.ctx = self.start_context(init_words, rngs)
        self.linear1 = Linear(backbone.dim, hidden, rngs=rngs)
        self.linear2 = Linear(hidden, width, rngs=rngs)

    @classmethod
    def sentences(cls, options: Mapping[str, Any]) -> Sentences:
        """Return the context that stands before a name."""
        return Sentences(context_words(options, "num_tokens"))

    def settle(self) -> dict[str, Array]:
        """Return nothing: every image has texts of its own."""
        return {}

    def shift(self, features: Float[Array, "B D"]) -> Float[Array, "B W"]:
        """Return what is added to the context of each image, pi."""
        hidden = self.linear1(unit(features.astype(jnp.float32)))
        return self.linear2(jax.nn.relu(hidden))

    def texts_of(self, features: Float[Array, "B D"], ctx: Context) -> Float[Array, "B C D"]:
        """Return the text features of the classes for each image, of length 1."""
        contexts = self.ctx[...] + self.shift(features)[:, None]  # B n W
        return self.texts(jax.vmap(self.texts.embedded)(contexts), ctx)

    def classify(self, features: Float[Array, "B D"], ctx: Context) -> dict[str, Array]:
        """Return "logits" (B C) and "features" (B D) of length 1."""
        return self.cosines(features, self.texts_of(features, ctx))
