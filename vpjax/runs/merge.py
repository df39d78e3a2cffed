"""Folds what a method learnt into its backbone's weights: a plain model with the same logits.

    plain = vpjax.merge(run.model)      # a linear probe: plain(images)["logits"] are the run's

`Method.fold` says what the weights become; the result is compared with the model before anybody
gets it. `vpjax.runs.export` writes the same weights to a file.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.methods.finetune import Linear
from vpjax.models.model import Model
from vpjax.runs.export_check import IMAGES, differing


def merge(model: Model) -> Model:
    """Return a linear probe with the logits of a model whose method can be folded.

    The backbone and the head are copies; the model itself does not change. Folded weights are
    float32 whatever the backbone computes in.

    Args:
        model: from `create_model`, or `run.model`.

    Raises:
        UserError: if the method is no change of weights, and why; or if the folded weights compute
            something else.
    """
    plain = joined(model, folded(model))
    compared(model, plain, model.backbone.dtype)
    return plain


def folded(model: Model) -> dict[str, Array]:
    """Return the weights of the backbone that differ, as `Method.fold` does, in full precision.

    Raises: UserError if the method is no change of weights.
    """
    graph, state = nnx.split(model)

    def fold(state: nnx.State) -> dict[str, Array]:
        whole = nnx.merge(graph, state)
        return whole.method.fold(whole.backbone)

    with jax.default_matmul_precision("highest"):
        return jax.jit(fold)(state)


def joined(model: Model, weights: Mapping[str, Array]) -> Model:
    """Return a linear probe of a model's head on its backbone with other weights.

    Args:
        model: whose head is a `vpjax.methods.head.Head`.
        weights: those that differ, by names relative to the backbone.
    """
    graph, state = nnx.split(model.backbone)
    body = nnx.merge(graph, params.fill(state, params.flatten(state) | dict(weights)), copy=True)
    body.origin = None  # its weights are in no file
    head = nnx.merge(*nnx.split(model.method.head), copy=True)
    method = nnx.eval_shape(
        lambda: Linear(body, head.bias.shape[-1], head_hidden=len(head.hidden), rngs=nnx.Rngs(0))
    )
    method.head = head
    return Model(body, method)


def compared(model: Model, plain: Model, dtype: str) -> float:
    """Return the largest difference of features, or logits, relative to the largest of the model.

    Args:
        model: the model.
        plain: what it was folded into.
        dtype: to compute both in.

    Raises:
        UserError: if they differ by more than `vpjax.runs.export_check.TOLERANCE` allows.
    """
    body = model.backbone
    shape = (IMAGES, *body.image_size, body.stem.channels)
    images = jax.random.normal(jax.random.key(0), shape, jnp.dtype(dtype))
    # Else float32 products are computed in a shorter format on some devices.
    with jax.default_matmul_precision("highest" if dtype == "float32" else None):
        ours, theirs = outputs(model, images), outputs(plain, images)
    worst = 0.0
    for key in ("features", "logits"):
        differ, allowed = differing(ours[key], theirs[key], dtype)
        if not differ <= allowed:
            raise UserError(
                f"the weights that {type(model.method).__name__} was folded into compute something "
                f"else than the model: {key} differ by {differ:.2g} of the largest, and "
                f"{allowed:g} is allowed. Nothing was written."
            )
        worst = max(worst, differ)
    return worst


def outputs(model: Model, images: Array) -> dict[str, np.ndarray]:
    """Return features and logits of prepared images."""
    graph, state = nnx.split(model)
    out = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, images)
    return {key: np.asarray(out[key], np.float32) for key in ("features", "logits")}
