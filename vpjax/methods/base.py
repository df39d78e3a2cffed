"""A method is everything trainable around a frozen backbone: prompts, adapters, a head.

A model calls these hooks in this order; their defaults together make the linear probe. Before, when
a model is built, `input_size` and `reinitialised_params` are asked, and when training begins
with a method that has `begun`, `choose_images` and `start_values`.

    settle        -> what depends on no image, once for many batches
    start         images -> state (Tokens, or any pytree of them)
    num_outputs   how many leading tokens the last layer must return
    step          layer, state -> state, once a layer
    tap           inside a layer: the output of a site -> what the layer goes on with
    predict       state -> outputs: pools, then calls
    classify        pooled features -> outputs, "logits" among them
    loss_terms    outputs, labels -> "loss" and what else the history shows; calls
    loss            outputs, labels -> loss of each image
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.methods.head import Head
from vpjax.nn.context import Context
from vpjax.nn.tokens import Tokens

Criterion = Callable[[Array, Array], Array]  # logits B C, labels B or B C -> loss of each image, B
# What to do where weights cannot take what a method learnt.
KEEP = "keep the model whole: `export --format stablehlo`, or vpjax.load_run"


def instead(backbone: Backbone) -> str:
    """Return the name of a method for a backbone that another does not suit."""
    return "bottleneck.AdapterPlus" if "mlp.residual" in backbone.taps else "finetune.Bias"


class Method(nnx.Module):
    """Base class of methods; as it is, a classification head on a frozen backbone.

    A subclass replaces the hooks it needs. Its options are keyword-only arguments of the
    constructor, each with a type and a default: they become the keys of `config.method`. It passes
    `**inherited` on, so that the options of this class are its options too. Further arguments are
    passed to constructors that have them: `match_reference_code` (bool: repeat published code where
    it differs from its paper), `mesh` (`jax.sharding.Mesh`, the devices of the run), and `texts`
    (see `learns_texts`).

    It gets the backbone as an argument and must not keep it, else everything is stored twice.

    Parameters are attributes of the type `nnx.Param`. Their names are paths, such as
    "method/prompts/3", "method/head/kernel" or "backbone/layers/11/attn/query/kernel"; the regular
    expressions below must match such a name in full.

    Attributes:
        trainable: regular expression of the parameters that train, those of the backbone included.
            `config.train.trainable` replaces it.
        trainable_stats: regular expression of the running averages (BatchNorm) that training
            changes; all others stay as they are.
        no_decay: regular expression of parameters that weight decay would pull away from where they
            do nothing, such as scales of 1; it is added to `optim.no_decay` unless that is "".
        backbone_dropout: whether the backbone's own dropout and stochastic depth act in training.
        trains_after_pooling: True for methods whose parameters are used in `classify` only: such
            a method may train on cached features.
        logit_description: what logits are, for reports, such as "100 cosines".
        reads_class_names: True: the builder puts the text features of the classes (C D) into
            `self.text`, an `nnx.Variable` that the constructor makes, and exp(logit_scale) into
            `self.scale`, if there is one.
        for_any_classes: True: nothing that it learns belongs to a class, so that a run may be
            evaluated with the names of classes that it was not trained on.
        start_passes: 0: `start_values` gets images. R: it gets their pooled features (S D), means
            over R passes that are augmented as in training, which are computed in batches; what
            it makes of them are parameters that train or running averages, which are saved.
        searches: whether `search` is called.
        learns_texts: True: the builder passes CLIP's frozen text tower and the texts of the classes
            as `texts`, a `vpjax.methods.class_texts.ClassTexts`, made from `sentences`.
        limits: {regular expression: (lowest, highest)}. The parameters it matches are cut to these
            bounds after every training step.
        sharded: {regular expression: axis of the mesh}. The first axis of the parameters it matches
            is split over that axis, with their optimiser state.
        restored: options that only say where training begins, with the values for a model whose
            parameters are read from a checkpoint: it needs no file that the others did.
        why_whole: why `fold` is refused, where a method does not define it.
        completes_backbone: True for adapters: the backbone that trained beside them is of no use
            without them, so it is not exported alone.
        begun: of a method that begins from training images, an `nnx.BatchStat` that says whether
            it has (False from the constructor): a run saves it, so nothing is made twice.
        head: the classification head, B D -> B C.

    Args:
        backbone: what the method is built for.
        num_classes: C.
        head_hidden: hidden layers of the head, 0: linear.
        head_init: how the head starts, see `vpjax.methods.head`.
        head_norm: whether a BatchNorm without scale and bias precedes the head, as MAE's linear
            probe and AdaptFormer have it.
        backbone_dropout: whether the frozen backbone's dropout and stochastic depth act in
            training, as in the published recipes of most adapters (`backbone.drop_path=0.1`);
            None: as the method has it.
        rngs: draws all that starts at random.

    Raises:
        UserError: if the backbone has BatchNorm, which `backbone_dropout` would let loose too.
    """

    trainable = r"method/.*"
    trainable_stats = r"method/.*"
    no_decay = ""
    backbone_dropout = False
    trains_after_pooling = False
    logit_description = "logits"
    reads_class_names = False
    learns_texts = False
    for_any_classes = False
    start_passes = 0
    searches = False
    limits: Mapping[str, tuple[float, float]] = {}
    sharded: Mapping[str, str] = {}
    restored: Mapping[str, Any] = {}
    why_whole = "it adds tokens, images or layers"
    completes_backbone = False
    begun: nnx.BatchStat | None = None

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        head_hidden: int = 0,
        head_init: str = "zero",
        head_norm: bool = False,
        backbone_dropout: bool | None = None,
        rngs: nnx.Rngs,
    ):
        if backbone_dropout and backbone.batch_norm and not self.backbone_dropout:
            raise UserError(
                f"backbone_dropout=True would also let the BatchNorm of {type(backbone).__name__} "
                "use the averages of the batch; leave it out"
            )
        if backbone_dropout is not None:
            self.backbone_dropout = backbone_dropout
        own = {"hidden": head_hidden, "init": head_init, "norm": head_norm}
        self.head = Head(backbone.dim, num_classes, **own, rngs=rngs)

    @classmethod
    def input_size(cls, image_size: tuple[int, int], options: Mapping[str, Any]) -> tuple[int, int]:
        """Return the size in pixels that the backbone must be built for.

        Called before the backbone exists. It differs from the size of the images where a method
        enlarges them, as a frame of pixels does.

        Args:
            image_size: (height, width) of the images.
            options: the options of the method.
        """
        return image_size

    def settle(self) -> dict[str, Array]:
        """Return what depends on no image, by name, such as the text features of the classes.

        Evaluation, prediction and export compute it once and give it back as `ctx.settled`; else,
        as in training, that is empty. By default nothing.
        """
        return {}

    def reinitialised_params(self, backbone: Backbone, key: Array) -> dict[str, Array]:
        """Return new values for parameters of the backbone that its weights file must not set.

        Called once, when the model has been built.

        Args:
            backbone: of the model; it may consist of shapes only.
            key: PRNG key to draw them from.

        Returns:
            The values, by names relative to the backbone, such as "cls_token".
        """
        return {}

    def choose_images(
        self, labels: Int[np.ndarray, " n *C"], rng: np.random.Generator
    ) -> Int[np.ndarray, " S"]:
        """Return the numbers of the training images that `start_values` needs.

        Called where `begun` is False.

        Args:
            labels: of all training images.
            rng: seeded by the run; the choice must depend on nothing else.

        Raises:
            UserError: if the method cannot begin from such data.
        """
        raise NotImplementedError

    def start_values(
        self, backbone: Backbone, images: Float[Array, "S H W C"], labels: Array, key: Array
    ) -> dict[str, Array]:
        """Return values of the method's parameters and running averages, made from images.

        Called once, when training begins with a model whose `begun` is False, which it is not any
        more afterwards. Frozen variables cannot be made here, as no run saves them.

        Args:
            backbone: of the model.
            images: normalised, as for evaluation; or their features, see `start_passes`.
            labels: theirs.
            key: PRNG key.

        Returns:
            The values, by names relative to the method, such as "prompts/3".
        """
        return {}

    def search(self, features: Float[Array, "n D"], labels: Int[Array, " n"]) -> dict[str, Array]:
        """Return values of running averages that are chosen on the validation split.

        Called once, when training has ended, where `searches` is True and there is such a split.

        Args:
            features: of its images, pooled.
            labels: theirs.

        Returns:
            The values, by names relative to the method, such as "alpha".
        """
        return {}

    def num_outputs(self, backbone: Backbone) -> int | None:
        """Return how many leading tokens the last layer must return; None: all.

        By default those that the backbone's pooling reads. The last layer gets it as
        `ctx.num_outputs` and leaves out the work for all other tokens.
        """
        return backbone.num_pooled_tokens

    def start(self, backbone: Backbone, images: Float[Array, "B H W C"], ctx: Context) -> Any:
        """Return the state that enters the first layer, by default the backbone's tokens.

        Change the images here, or insert prompts: `tokens.insert(prompts, at=1)`.

        Args:
            backbone: of the model.
            images: normalised.
            ctx: randomness and training progress.
        """
        return backbone.embed(images, ctx)

    def step(self, layer: nnx.Module, state: Tokens, ctx: Context) -> Any:
        """Apply one layer to the state and return the new one.

        Call the layer, or `super().step`, and pass `num_outputs` on. Prompts whose own outputs are
        not needed go in as `extra_kv` (P D or B P D): `layer(tokens, ctx, extra_kv=prompts,
        num_outputs=ctx.num_outputs)`.

        Args:
            layer: of the backbone; use this object, not `backbone.layers[i]`, whose parameters may
                be split over devices.
            state: what `start`, or the step before, returned.
            ctx: `ctx.layer` is the index of the layer, `ctx.num_outputs` how many leading tokens it
                must return (None: all).
        """
        return layer(state, ctx, num_outputs=ctx.num_outputs)

    def tap(self, site: str, y: Any, x: Array, ctx: Context) -> Any:
        """Return what replaces the output of a place inside a layer, by default the output itself.

        Args:
            site: name of the place, such as "mlp" or "attn.query"; `backbone.taps` lists them.
            y: its output, an array; of "attn.qkv" queries, keys and values, a tuple of arrays.
            x: its input.
            ctx: `ctx.layer` is the index of the layer, None in the stem and the embedding;
                `ctx.linear` the frozen linear layer that computed y, None at other sites.
        """
        return y

    def fold(self, backbone: Backbone) -> dict[str, Array]:
        """Return the weights of a bare backbone that computes the same features.

        Args:
            backbone: of the model.

        Returns:
            The parameters that change, by names relative to the backbone.

        Raises:
            UserError: if the method is not a change of weights, and why.
        """
        raise UserError(
            f"{type(self).__name__} cannot be folded into the backbone's weights: what it computes "
            f"is no linear change of them, as {self.why_whole}; {KEEP}."
        )

    def predict(self, backbone: Backbone, state: Tokens, ctx: Context) -> dict[str, Array]:
        """Return the outputs for the state after the last layer.

        By default `classify` of the backbone's pooling. A method whose state is not `Tokens`, or
        which pools in another way, replaces this.

        Args:
            backbone: of the model.
            state: what the last `step` returned.
            ctx: randomness and training progress.

        Returns:
            "logits" (B C), which evaluation reads; "features" (B D), which they were computed
            from; and whatever the loss needs.
        """
        return self.classify(backbone.pool(state), ctx)

    def classify(self, features: Float[Array, "B D"], ctx: Context) -> dict[str, Array]:
        """Return the outputs for pooled features; see `predict`."""
        return {"logits": self.head(features, ctx), "features": features}

    def loss_terms(
        self, out: dict[str, Array], labels: Int[Array, " B *C"], criterion: Criterion, ctx: Context
    ) -> dict[str, Array]:
        """Return the loss and further numbers that the history of a run shows.

        The arguments go from what the model computed (`out`) over what it should have (`labels`)
        to how the two are compared (`criterion`), and end, as in every hook, with the context.

        Args:
            out: what `predict` returned.
            labels: classes (B), or zeros and ones (B C) where an image has several classes.
            criterion: (logits, labels) -> loss of each image (B); `config.train.loss` with its
                class weights and label smoothing.
            ctx: `ctx.key` is None in evaluation, `ctx.progress` the share of the run done, and
                `ctx.mask` (B) False for images that only pad the batch.

        Returns:
            "loss" (B), whose mean over the images is minimised, and other terms, each B or a
            scalar. Override this only to show several terms; else `loss` is enough.
        """
        return {"loss": self.loss(out, labels, criterion, ctx)}

    def loss(
        self, out: dict[str, Array], labels: Int[Array, " B *C"], criterion: Criterion, ctx: Context
    ) -> Float[Array, " B"]:
        """Return the loss of each image, by default the criterion of the logits.

        Evaluation calls this hook, training `loss_terms`; see there for the arguments.
        """
        return criterion(out["logits"], labels)
