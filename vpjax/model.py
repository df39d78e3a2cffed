"""A model is a backbone and a method, and these lines join them.

    state = method.start(backbone, images, ctx)
    for layer in backbone.layers:
        state = method.step(layer, state, ctx)
    outputs = method.predict(backbone, state, ctx)

Read this file first; the rest of the library hangs from it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float

from vpjax import names
from vpjax.backbones.contract import Backbone
from vpjax.context import Context
from vpjax.errors import unknown
from vpjax.methods.base import Method

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}

EVALUATION = Context()


class Model(nnx.Module):
    """Images in, a dictionary of outputs out."""

    def __init__(self, backbone: Backbone, method: Method):
        self.backbone = backbone
        self.method = method

    def __call__(
        self, images: Float[Array, "B H W C"], ctx: Context = EVALUATION, remat: str = "none"
    ) -> dict[str, Array]:
        backbone, method = self.backbone, self.method
        ctx = dataclasses.replace(ctx, hook=method.tap, noisy_backbone=method.backbone_dropout)
        state = method.start(backbone, images, ctx)
        state = run(backbone.layers, state, method.step, ctx, method.keep(backbone), remat)
        return method.predict(backbone, state, ctx)


def run(
    layers: Sequence[Callable],
    state: Any,
    step: Callable,
    ctx: Context,
    keep: int | None = None,
    remat: str = "none",
) -> Any:
    """Applies layers in turn: the only loop over layers in the library.

    The last layer is asked for its first `keep` tokens only. `remat` names what the backward pass
    recomputes: "none"; "full": all but each layer's input; "dots": all but products with weights.
    """
    if remat not in REMAT:
        raise unknown("remat", remat, REMAT)
    last = len(layers) - 1
    for i, layer in enumerate(layers):

        def apply(state, i=i, layer=layer):
            return step(layer, state, ctx.at(i, keep if i == last else None))

        state = (apply if remat == "none" else jax.checkpoint(apply, policy=REMAT[remat]))(state)
    return state


class Parts(NamedTuple):
    """A model taken apart: numbers by name, and the graph (structure and shapes) to join them.

    `trainable` alone has gradients and optimiser state; `stats` are running averages.
    """

    graph: tuple[nnx.GraphDef, nnx.State]
    trainable: dict[str, Array]
    stats: dict[str, Array]
    frozen: dict[str, Array]


def take_apart(model: Model, trainable: str = "") -> Parts:
    """Splits a model by the method's regular expression, or by `trainable` if given.

    Raises: UserError if the expression matches no parameter.
    """
    graphdef, state = nnx.split(model)
    kinds = {"/".join(map(str, path)): type(v) for path, v in nnx.to_flat_state(state)}
    values = names.flatten(state)
    params = [n for n, kind in kinds.items() if issubclass(kind, nnx.Param)]
    learns = names.matching(trainable or model.method.trainable, params, "trainable")
    stats = {n for n, kind in kinds.items() if issubclass(kind, nnx.BatchStat)}
    pick = lambda chosen: {n: v for n, v in values.items() if n in chosen}  # noqa: E731
    return Parts(
        (graphdef, shapes(state)), pick(learns), pick(stats), pick(values.keys() - learns - stats)
    )


def shapes(tree: Any) -> Any:
    """Returns a pytree of arrays as shapes and dtypes, holding no memory."""
    return jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), tree)


def put_together(graph: tuple, *parts: dict[str, Array]) -> Model:
    """Joins the numbers of `take_apart` to a model again. Safe inside differentiated functions."""
    graphdef, like = graph
    values = {name: v for part in parts for name, v in part.items()}
    return nnx.merge(graphdef, names.fill(like, values), copy=True)
