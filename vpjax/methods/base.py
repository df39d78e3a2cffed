"""A method is everything trainable around a frozen backbone.

    start    images -> state (Tokens, or any pytree of them)
    step     around a layer
    tap      inside a layer
    predict  state -> outputs; "logits" is what evaluation reads
    classify pooled features -> outputs: what `predict` does after pooling
    loss     what is minimised

Each has a default, which together make the linear probe. `trainable` says what learns, by name.
A method receives the backbone as an argument and never keeps it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx
from jaxtyping import Array, Float, Int

from vpjax.backbones.base import Backbone
from vpjax.methods.head import Head
from vpjax.nn.context import Context
from vpjax.nn.tokens import Tokens

Criterion = Callable[[Array, Array], Array]  # logits B C, labels B or B C -> loss of each image, B


class Method(nnx.Module):
    """The defaults, and a classification head.

    `head_hidden` and `head_init` describe the head, see `vpjax.methods.head`.
    """

    trainable = r"method/.*"
    trainable_stats = r"method/.*"  # running averages that training changes; the rest is frozen
    backbone_dropout = False  # True: dropout of the backbone acts while training
    trains_after_pooling = (
        False  # True: all that is learnt is behind the frozen backbone's pooled features
    )
    logit_description = "logits"  # what these are, for reports: "100 cosines"
    reads_class_names = False  # True: the builder puts the classes' text features at method/text
    sharded: Mapping[str, str] = {}  # names whose first axis is split over an axis of the mesh

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        head_hidden: int = 0,
        head_init: str = "zero",
        rngs: nnx.Rngs,
    ):
        self.head = Head(backbone.dim, num_classes, hidden=head_hidden, init=head_init, rngs=rngs)

    @classmethod
    def input_size(cls, image_size: tuple[int, int], options: Mapping[str, Any]) -> tuple[int, int]:
        """Return the size a backbone must be built for where images are `image_size` pixels."""
        return image_size

    def reinitialised_params(self, backbone: Backbone, key: Array) -> dict[str, Array]:
        """Return parameters of the backbone that start anew, not from its weights file."""
        return {}

    def num_outputs(self, backbone: Backbone) -> int | None:
        """How many leading tokens the last layer must return; None: all."""
        return backbone.num_pooled_tokens

    def start(self, backbone: Backbone, images: Float[Array, "B H W C"], ctx: Context) -> Any:
        """Return what enters the first layer."""
        return backbone.embed(images, ctx)

    def step(self, layer: nnx.Module, state: Tokens, ctx: Context) -> Any:
        """Apply one layer."""
        return layer(state, ctx, num_outputs=ctx.num_outputs)

    def tap(self, site: str, y: Array, x: Array, ctx: Context) -> Array:
        """Return what replaces the output `y` that a site inside a layer computed from `x`."""
        return y

    def predict(self, backbone: Backbone, state: Tokens, ctx: Context) -> dict[str, Array]:
        """Return the outputs, "logits" (B C) and "features" (B D) among them."""
        return self.classify(backbone.pool(state), ctx)

    def classify(self, features: Float[Array, "B D"], ctx: Context) -> dict[str, Array]:
        """Return the outputs for pooled features."""
        return {"logits": self.head(features, ctx), "features": features}

    def loss_terms(
        self, out: dict[str, Array], labels: Int[Array, "B *C"], criterion: Criterion, ctx: Context
    ) -> dict[str, Array]:
        """Returns "loss" (B), and what else the history should show: each B, or one number."""
        return {"loss": self.loss(out, labels, criterion, ctx)}

    def loss(
        self, out: dict[str, Array], labels: Int[Array, "B *C"], criterion: Criterion, ctx: Context
    ) -> Float[Array, " B"]:
        """Returns the loss of each image; its mean is minimised."""
        return criterion(out["logits"], labels)
