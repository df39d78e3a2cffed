"""Bases of prompt methods on CLIP, whose logits are scaled cosines of image and text features.

    logits = s <unit(f), t_c>      s = exp(logit_scale), frozen as all of CLIP

Prompts of images are tokens without position that follow the others. The first of them pass CLIP's
norm before the layers, those of deeper layers take their place and do not. Where a prompt's output
is never used it is no token, but further keys and values, as in `vpjax.methods.vpt`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.methods.base import Method
from vpjax.methods.class_texts import ClassTexts, PromptedTexts, drawn, require_clip
from vpjax.nn.context import EVALUATION, Context
from vpjax.nn.mop_similarity import unit
from vpjax.nn.tokens import Tokens

# Of everything but the frozen text tower and the texts, which `PromptedTexts` holds.
LEARNT = r"method/(?!texts/).*"


class _Prompted(Method):
    """Base of methods without a head, which may have prompts of images; a subclass defines them.

    Args:
        backbone: CLIP's image tower.
        vision_depth: layers that have prompts of images, the first ones; 0: none.
        texts: from the builder, where the method learns texts.

    Raises:
        UserError: if the backbone is another, or has fewer layers.
    """

    for_any_classes = True
    logit_description = "cosines, times exp(logit_scale) of the weights"

    def __init__(
        self, backbone: Backbone, *, vision_depth: int = 0, texts: ClassTexts | None = None
    ):
        require_clip(backbone, type(self).__name__, texts, self.learns_texts)
        self.vision_depth, self.num_layers = vision_depth, len(backbone.layers)
        # No parameter, so never trained; the builder knows it.
        self.scale = nnx.Variable(jnp.float32(100.0 if texts is None else texts.scale))

    def vision_prompt(self, layer: int) -> Float[Array, "P D"]:
        """Return the prompts of images at a layer below `vision_depth`."""
        raise NotImplementedError

    def start(self, backbone: Backbone, images: Float[Array, "B H W C"], ctx: Context) -> Any:
        """Return the tokens, and the first prompts after the norm before the layers."""
        tokens = backbone.embed(images, ctx)
        if not self.vision_depth:
            return tokens
        first = self.vision_prompt(0)
        return tokens, backbone.pre_norm(first) if backbone.pre_norm else first

    def step(self, layer: nnx.Module, state: Any, ctx: Context) -> Tokens:
        """Apply a layer with its prompts; those of the last prompted layer stay for later ones."""
        tokens, first = state if isinstance(state, tuple) else (state, None)
        if ctx.layer >= self.vision_depth:
            return super().step(layer, tokens, ctx)
        prompt = self.vision_prompt(ctx.layer) if first is None else first
        if ctx.layer == self.vision_depth - 1 < self.num_layers - 1:
            return super().step(layer, tokens.insert(prompt, at=tokens.num_prefix_tokens), ctx)
        return layer(tokens, ctx, extra_kv=prompt, num_outputs=ctx.num_outputs)

    def cosines(
        self, features: Float[Array, "B D"], text: Float[Array, "*B C D"]
    ) -> dict[str, Array]:
        """Return the outputs for pooled features and text features of length 1.

        Args:
            features: of images, of any length.
            text: of the classes; or of the classes for each image.
        """
        f = unit(features.astype(jnp.float32))
        rule = "bd,cd->bc" if text.ndim == 2 else "bd,bcd->bc"
        cosines = jnp.einsum(rule, f, text, precision=jax.lax.Precision.HIGHEST)
        return {"logits": self.scale[...] * cosines, "features": f}


class _TextPrompted(_Prompted):
    """Base of methods that learn a context, `self.ctx`, before the names of the classes.

    Args:
        texts: from the builder.
        num_tokens: tokens of the context.
        position: see `PromptedTexts`.
        inherited: see `_Prompted`.
    """

    trainable = LEARNT
    learns_texts = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        texts: ClassTexts | None,
        num_tokens: int,
        position: str = "end",
        **inherited,
    ):
        super().__init__(backbone, texts=texts, **inherited)
        self.texts = PromptedTexts(texts, num_tokens, position)
        self.text_prompts = nnx.Dict()  # of layers above the first, where a subclass has them

    def start_context(self, init_words: str, rngs: nnx.Rngs) -> nnx.Param:
        """Return the context at its start: the embeddings of words, or N(0, 0.02^2) without any."""
        count = self.texts.num_tokens
        if init_words.strip():
            return nnx.Param(self.texts.words(count))
        return drawn(rngs, count, self.texts.width)

    def text_rows(self) -> dict[int, Float[Array, "n W"]]:
        """Return {layer: what the context is before that layer of the text tower}."""
        return {int(i): prompt[...] for i, prompt in self.text_prompts.items()}

    def text_features(self, ctx: Context) -> Float[Array, "C D"]:
        """Return the text features of the classes, of length 1."""
        if "text" in ctx.settled:
            return ctx.settled["text"]
        return self.texts(self.texts.embedded(self.ctx[...]), ctx, self.text_rows())

    def settle(self) -> dict[str, Array]:
        """Return the text features of the classes."""
        return {"text": self.text_features(EVALUATION)}

    def classify(self, features: Float[Array, "B D"], ctx: Context) -> dict[str, Array]:
        """Return "logits" (B C) and "features" (B D) of length 1."""
        return self.cosines(features, self.text_features(ctx))


def check_depth(option: str, depth: int, least: int, layers: int) -> None:
    """Check how many layers have prompts.

    Raises:
        UserError: if there are not that many layers, or there must be more.
    """
    if not least <= depth <= layers:
        raise UserError(f"{option} is {depth}; give {least} to {layers}, the tower's layers")
