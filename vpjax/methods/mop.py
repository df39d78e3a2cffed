"""MoP: each class owns K learnt sub-prompts around its text feature, on a frozen CLIP.

    p_ck = (t_c + o_ck) / |t_c + o_ck|       the offsets o (C, K, D) are all that trains
    l_bc = 50 max_k <f_b, p_ck> / temp_cls   logits: f is the image feature, of length 1

    loss = lambda L_mixture + (1 - lambda) L_cls + weight mean(o^2)

    L_cls      cross entropy of l, which separates classes
    L_mixture  - sum_k gamma_bk s_bk over the image's own class, s = 50 <f, p>: pulls sub-prompts
               towards images; gamma = softmax_k(s / tau) without gradient. tau falls while
               training, so that each image ends up assigned to one sub-prompt

Published as a repository without a paper; differences from its code: docs/methods/mop_clip.md.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError, unknown
from vpjax.methods.base import Criterion, Method
from vpjax.nn import mop_similarity
from vpjax.nn.context import Context

SCALE = 50.0  # of similarities
INITS = ("semantic", "zero")
ASSIGNMENTS = ("soft", "hard")


class MoP(Method):
    """Mixture of sub-prompts around the text features of the classes; it has no head.

    Classes are padded to a multiple of the devices that share them; the padding stays zero.

    Args:
        num_prompts: K, sub-prompts of a class.
        tau_start: temperature of the assignments at the first step.
        tau_end: the same at the last step; it changes linearly in between.
        anneal: False: tau stays at `tau_start`.
        init: "semantic": offsets drawn from N(0, 0.01^2); "zero".
        assignment: "soft", or "hard": each image to its most similar sub-prompt.
        offset_reg_weight: weight of the mean squared offset.
        lambda_mixture: lambda, 0 to 1.
        temp_cls: temperature of the logits.
        chunk: classes compared at once; 0: as many as make 32 MB.
        diversity_weight: of `mop_similarity.diversity`, a term of later versions.
        entropy_weight: of the negative entropy of the assignments, likewise.
        usage_weight: of `mop_similarity.usage_imbalance`, likewise.
        usage_threshold: share of a batch that each sub-prompt should get at least.
        mesh: whose axis "model" the classes are split over.

    Raises:
        UserError: for a value out of range.
    """

    trainable = r"method/offsets"
    sharded = {r"method/(offsets|text)": "model"}
    trains_after_pooling = True
    reads_class_names = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        num_prompts: int = 32,
        tau_start: float = 1.0,
        tau_end: float = 0.05,
        anneal: bool = True,
        init: str = "semantic",
        assignment: str = "soft",
        offset_reg_weight: float = 0.001,
        lambda_mixture: float = 0.5,
        temp_cls: float = 0.07,
        chunk: int = 0,
        diversity_weight: float = 0.0,
        entropy_weight: float = 0.0,
        usage_weight: float = 0.0,
        usage_threshold: float = 0.1,
        mesh: Mesh | None = None,
        rngs: nnx.Rngs,
    ):
        check_options(num_prompts, (tau_start, tau_end, temp_cls), lambda_mixture, init, assignment)
        self.num_classes, self.mesh, self.chunk = num_classes, mesh, chunk
        self.tau_start, self.tau_end = tau_start, tau_end if anneal else tau_start
        self.hard, self.temp_cls = assignment == "hard", temp_cls
        self.lambda_mixture, self.offset_reg_weight = lambda_mixture, offset_reg_weight
        self.diversity_weight, self.entropy_weight = diversity_weight, entropy_weight
        self.usage_weight, self.usage_threshold = usage_weight, usage_threshold
        rows = num_classes + -num_classes % mop_similarity.num_shards(mesh)
        real = (jnp.arange(rows) < num_classes)[:, None]
        offsets = jnp.zeros((rows, num_prompts, backbone.dim))
        if init == "semantic":
            offsets += 0.01 * jax.random.normal(rngs.params(), offsets.shape) * real[..., None]
        self.offsets = nnx.Param(offsets)
        # No parameter, so never trained; the builder puts the text features of the classes here.
        text = jax.random.normal(rngs.params(), (rows, backbone.dim)) * real
        self.text = nnx.Variable(mop_similarity.unit(text))

    @property
    def logit_description(self) -> str:
        """What logits are, for reports: "714.3 cosines"."""
        return f"{SCALE / self.temp_cls:.4g} cosines"

    def classify(self, features: Float[Array, "B D"], ctx: Context) -> dict[str, Array]:
        """Return "logits" (B C), "features" (B D) of length 1, and "winners" (B C).

        "winners" is the most similar sub-prompt of each class.
        """
        f = mop_similarity.unit(features.astype(jnp.float32))
        best, index = mop_similarity.max_similarity(
            f, self.offsets[...], self.text[...], self.chunk, self.mesh
        )
        real = slice(self.num_classes)
        logits = SCALE / self.temp_cls * best[:, real]
        return {"logits": logits, "features": f, "winners": index[:, real]}

    def tau(self, progress: Array | float) -> Array:
        """Return the temperature of the assignments; `progress` is the share of steps done."""
        left = 1 - jnp.minimum(1, jnp.asarray(progress, jnp.float32))
        return self.tau_end + (self.tau_start - self.tau_end) * left

    def assign(
        self, features: Float[Array, "B D"], labels: Int[Array, " B"], tau: Array | float
    ) -> Float[Array, "B K"]:
        """Return how much of each image each sub-prompt of its class gets, summing to 1.

        Args:
            features: of the images, of any length.
            labels: class of each image.
            tau: temperature, as `self.tau` returns it.
        """
        f = mop_similarity.unit(features.astype(jnp.float32))
        s, _ = mop_similarity.label_similarity(
            f, labels, self.offsets[...], self.text[...], self.mesh
        )
        return mop_similarity.assignments(SCALE * s, tau, self.hard)

    def loss_terms(
        self, out: dict[str, Array], labels: Int[Array, " B *C"], criterion: Criterion, ctx: Context
    ) -> dict[str, Array]:
        """Return the loss of each image, its terms, and tau; in evaluation L_cls only."""
        if labels.ndim > 1:
            raise UserError(
                "mop.MoP needs one class an image, and images of this data set have several. "
                "Choose another method, such as vpt.VPT."
            )
        separation = criterion(out["logits"], labels)
        if ctx.key is None:
            return {"loss": separation}
        offsets, tau = self.offsets[...], self.tau(ctx.progress)
        s, cosines = mop_similarity.label_similarity(
            out["features"], labels, offsets, self.text[...], self.mesh
        )
        s = SCALE * s
        gamma = mop_similarity.assignments(s, tau, self.hard)
        attraction = -(jax.lax.stop_gradient(gamma) * s).sum(-1)
        real = self.num_classes * offsets.shape[1] * offsets.shape[2]
        size = self.offset_reg_weight * (offsets**2).sum() / real
        loss = self.lambda_mixture * attraction + (1 - self.lambda_mixture) * separation + size
        parts = {"loss_mixture": attraction, "loss_cls": separation, "loss_reg": size, "tau": tau}
        for name, weight, term in self.optional_terms(gamma, cosines, ctx):
            loss, parts[name] = loss + weight * term, term
        return {"loss": loss} | parts

    def optional_terms(
        self, gamma: Float[Array, "B K"], cosines: Float[Array, "B K K"], ctx: Context
    ) -> list[tuple[str, float, Array]]:
        """Return name, weight and value of the further terms whose weight is not 0.

        In the published code `gamma` has no gradient here, so that its terms do nothing; here it
        has one.

        Args:
            gamma: assignments of the images.
            cosines: between the sub-prompts of each image's class.
            ctx: `ctx.mask` says which images are real.
        """
        real = jnp.ones(len(gamma)) if ctx.mask is None else ctx.mask.astype(jnp.float32)
        count = jnp.maximum(1, real.sum())
        found = []
        if self.diversity_weight:
            term = mop_similarity.diversity(cosines, count)
            found.append(("loss_diversity", self.diversity_weight, term))
        if self.entropy_weight:
            found.append(
                ("loss_entropy", self.entropy_weight, mop_similarity.negative_entropy(gamma))
            )
        if self.usage_weight:
            term = mop_similarity.usage_imbalance(gamma, real / count, self.usage_threshold)
            found.append(("loss_usage", self.usage_weight, term))
        return found

    def loss(
        self, out: dict[str, Array], labels: Int[Array, " B *C"], criterion: Criterion, ctx: Context
    ) -> Float[Array, " B"]:
        """Return the loss of each image; terms of the offsets or the batch are added to each."""
        return self.loss_terms(out, labels, criterion, ctx)["loss"]


def check_options(
    num_prompts: int,
    temperatures: tuple[float, ...],
    lambda_mixture: float,
    init: str,
    assignment: str,
) -> None:
    """Check the options of `MoP`.

    Args:
        num_prompts: K.
        temperatures: tau_start, tau_end and temp_cls.
        lambda_mixture: see `MoP`, as for the others.
        init: a name of `INITS`.
        assignment: a name of `ASSIGNMENTS`.

    Raises:
        UserError: for the first that is out of range.
    """
    if init not in INITS:
        raise unknown("init", init, INITS)
    if assignment not in ASSIGNMENTS:
        raise unknown("assignment", assignment, ASSIGNMENTS)
    if num_prompts < 1:
        raise UserError(f"num_prompts is {num_prompts}; give 1 or more, the sub-prompts of a class")
    if min(temperatures) <= 0:
        raise UserError(f"tau_start, tau_end, temp_cls are {temperatures}; they must be above 0")
    if not 0 <= lambda_mixture <= 1:
        raise UserError(f"lambda_mixture is {lambda_mixture}; it must be between 0 and 1")
