"""PromptSRC: IVLP, held near the frozen CLIP by three further losses, and averaged over epochs.

    loss = cross entropy + text_weight mean |t - t*| + image_weight mean |f - f*|
           + mean over images and classes of softmax(z*) (log softmax(z*) - log softmax(z))

    t*    mean text feature of the class in many templates, of length 1
    f*    feature of the same augmented image without prompts: a second pass through the image tower
    z*    logits of the two

The average over epochs (GPA) is that of `optim.average_mean`, see `vpjax.train.averaging`. Khattak
et al. 2023, arXiv 2307.06948.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.methods.base import Criterion
from vpjax.methods.class_texts import ClassTexts, Sentences, context_words
from vpjax.methods.ivlp import IVLP
from vpjax.nn.context import EVALUATION, Context
from vpjax.nn.stack import run_layers


class PromptSRC(IVLP):
    """Self-regulating prompts: IVLP with losses that hold it near the frozen CLIP.

    Args:
        text_tokens: see `ivlp.IVLP`, as for the other numbers of prompts.
        text_depth, vision_tokens, vision_depth: likewise.
        text_weight: of the distance of text features.
        image_weight: of the distance of image features.
        templates: of the fixed text features: a list of `vpjax.models.text.templates`; several with
            "{name}", joined by ";"; or a file of them, FILE.txt, a line each.
        texts: from the builder.
        inherited: `init_words`.

    Raises:
        UserError: see `ivlp.IVLP`; for a weight below 0.
    """

    restored: Mapping[str, Any] = {"templates": ""}  # targets are for training only

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        text_tokens: int = 4,
        text_depth: int = 9,
        vision_tokens: int = 4,
        vision_depth: int = 9,
        text_weight: float = 25.0,
        image_weight: float = 10.0,
        templates: str = "kinds",
        texts: ClassTexts | None = None,
        rngs: nnx.Rngs,
        **inherited,
    ):
        if min(text_weight, image_weight) < 0:
            raise UserError(
                f"text_weight is {text_weight} and image_weight {image_weight}; they must be 0 or "
                "more"
            )
        super().__init__(
            backbone,
            num_classes,
            text_tokens=text_tokens,
            text_depth=text_depth,
            vision_tokens=vision_tokens,
            vision_depth=vision_depth,
            texts=texts,
            rngs=rngs,
            **inherited,
        )
        self.text_weight, self.image_weight = text_weight, image_weight
        found = texts.targets
        self.targets = None if found is None else nnx.Variable(jnp.asarray(found, jnp.float32))

    @classmethod
    def sentences(cls, options: Mapping[str, Any]) -> Sentences:
        """Return the context that stands before a name, and the templates of the targets."""
        return Sentences(context_words(options, "text_tokens"), options["templates"])

    def start(self, backbone: Backbone, images: Float[Array, "B H W C"], ctx: Context) -> Any:
        """Return the state of IVLP, and in training the features of images without prompts."""
        state = super().start(backbone, images, ctx)
        if ctx.key is None:
            return state
        if self.targets is None:
            raise UserError("method.templates is empty; PromptSRC trains towards texts in them")
        step = lambda layer, tokens, ctx: layer(tokens, ctx, num_outputs=ctx.num_outputs)  # noqa: E731
        tokens = backbone.embed(images, EVALUATION)
        count = backbone.num_pooled_tokens
        tokens = run_layers(backbone.layers, tokens, step, EVALUATION, count)
        return state, jax.lax.stop_gradient(backbone.pool(tokens))

    def step(self, layer: nnx.Module, state: Any, ctx: Context) -> Any:
        """Apply a layer with its prompts; features without prompts stay as they are."""
        if ctx.key is None:
            return super().step(layer, state, ctx)
        return super().step(layer, state[0], ctx), state[1]

    def predict(self, backbone: Backbone, state: Any, ctx: Context) -> dict[str, Array]:
        """Return the outputs; in training with those of the frozen model and the text features."""
        if ctx.key is None:
            return super().predict(backbone, state, ctx)
        features, text = backbone.pool(state[0]), self.text_features(ctx)
        fixed = self.cosines(state[1], self.targets[...])
        out = {"frozen_logits": fixed["logits"], "frozen_features": fixed["features"]}
        return self.cosines(features, text) | out | {"text_features": text}

    def loss_terms(
        self, out: dict[str, Array], labels: Int[Array, " B *C"], criterion: Criterion, ctx: Context
    ) -> dict[str, Array]:
        """Return the loss of each image and its terms; in evaluation the cross entropy only."""
        entropy = criterion(out["logits"], labels)
        if "frozen_logits" not in out:
            return {"loss": entropy}
        text = self.text_weight * jnp.abs(out["text_features"] - self.targets[...]).mean()
        image = jnp.abs(out["features"] - out["frozen_features"]).mean(-1)
        image = self.image_weight * image
        theirs, ours = (jax.nn.log_softmax(out[k]) for k in ("frozen_logits", "logits"))
        logits = (jnp.exp(theirs) * (theirs - ours)).mean(-1)  # over classes, as published
        loss = entropy + text + image + logits
        terms = {"loss_ce": entropy, "loss_text": text, "loss_image": image}
        return {"loss": loss} | terms | {"loss_logits": logits}

    def loss(
        self, out: dict[str, Array], labels: Int[Array, " B *C"], criterion: Criterion, ctx: Context
    ) -> Float[Array, " B"]:
        """Return the loss of each image; the term of texts is added to each."""
        return self.loss_terms(out, labels, criterion, ctx)["loss"]
