"""A model is a backbone and a method, and these lines join them.

    state = method.start(backbone, images, ctx)
    for layer in backbone.layers:
        state = method.step(layer, state, ctx)
    outputs = method.predict(backbone, state, ctx)

Read this file first; the rest of the library hangs from it.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from vpjax import fsdp, names
from vpjax.backbones.contract import Backbone
from vpjax.context import Context
from vpjax.errors import UserError, unknown
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
        self,
        images: Float[Array, "B H W C"],
        ctx: Context = EVALUATION,
        remat: str = "none",
        segments: int = 0,
    ) -> dict[str, Array]:
        backbone, method = self.backbone, self.method
        ctx = dataclasses.replace(ctx, hook=method.tap, noisy_backbone=method.backbone_dropout)
        last = f"backbone/layers/{len(backbone.layers) - 1}/norm/mean"
        if remat != "none" and backbone.batch_norm and re.fullmatch(method.updates, last):
            raise UserError(
                f"remat is {remat!r}, but BatchNorm of layers that train follows the batches, and "
                "layers that change running averages cannot be run twice. Set remat='none'."
            )
        state = method.start(backbone, images, ctx)
        keep = method.keep(backbone)
        state = run(backbone.layers, state, method.step, ctx, keep, remat, segments)
        return method.predict(backbone, state, ctx)


def run(
    layers: Sequence[Callable],
    state: Any,
    step: Callable,
    ctx: Context,
    keep: int | None = None,
    remat: str = "none",
    segments: int = 0,
) -> Any:
    """Applies layers in turn: the only loop over layers in the library.

    The last layer is asked for its first `keep` tokens only. `remat` names what the backward pass
    recomputes: "none"; "full": all but the input of each segment of layers; "dots": all but those
    and products with weights. `segments` is how many there are; 0: each layer is one.
    Raises: UserError for an unknown `remat`, or `segments` the layers cannot be split into.
    """
    last = len(layers) - 1
    for part in split(len(layers), remat, segments):

        def apply(state, part=part):
            for i in part:
                layer, state = fsdp.whole(layers[i], state)
                state = step(layer, state, ctx.at(i, keep if i == last else None))
            return state

        policy, gathers = REMAT[remat], any(fsdp.is_split(layers[i]) for i in part)
        if remat == "none" and gathers and ctx.key is not None:  # training: a backward pass follows
            policy = fsdp.all_but_gathered
        state = (jax.checkpoint(apply, policy=policy) if policy else apply)(state)
    return state


def split(count: int, remat: str = "full", segments: int = 0) -> list[range]:
    """Returns the layers of each segment: consecutive, their numbers differing by 1 at most.

    Raises: UserError as `run` does.
    """
    if remat not in REMAT:
        raise unknown("remat", remat, REMAT)
    if segments and remat == "none":
        raise UserError(
            f"remat_segments is {segments}, but remat is 'none', which has no segments. "
            "Set remat='full', or leave remat_segments at 0."
        )
    if not 0 <= segments <= count:
        raise UserError(
            f"remat_segments is {segments}; the backbone has {count} layers. Choose 1 to {count}, "
            "or 0 for each layer its own."
        )
    parts = segments or count
    return [range(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


class Parts(NamedTuple):
    """A model taken apart: numbers by name, and the graph (structure and shapes) to join them.

    `trainable` alone has gradients and optimiser state; `stats` are running averages that training
    changes.
    """

    graph: tuple[nnx.GraphDef, nnx.State]
    trainable: dict[str, Array]
    stats: dict[str, Array]
    frozen: dict[str, Array]


def take_apart(model: Model, trainable: str = "", mesh: Mesh | None = None) -> Parts:
    """Splits a model by the method's regular expression, or by `trainable` if given.

    With a `mesh`, frozen layers are to be split over its devices, see `vpjax.fsdp`.
    Raises: UserError if the expression matches no parameter.
    """
    graphdef, state = nnx.split(model)
    kinds = {"/".join(map(str, path)): type(v) for path, v in nnx.to_flat_state(state)}
    values = names.flatten(state)
    params = [n for n, kind in kinds.items() if issubclass(kind, nnx.Param)]
    learns = names.matching(trainable or model.method.trainable, params, "trainable")
    running = [n for n, kind in kinds.items() if issubclass(kind, nnx.BatchStat)]
    stats = {n for n in running if re.fullmatch(model.method.updates, n)}
    pick = lambda chosen: {n: v for n, v in values.items() if n in chosen}  # noqa: E731
    frozen = pick(values.keys() - learns - stats)
    if mesh is not None:
        fsdp.note(model.backbone.layers, frozen, mesh)
        graphdef = nnx.graphdef(model)
    return Parts((graphdef, shapes(state)), pick(learns), pick(stats), frozen)


def shapes(tree: Any) -> Any:
    """Returns a pytree of arrays as shapes and dtypes, holding no memory."""
    return jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), tree)


def put_together(graph: tuple, *parts: dict[str, Array]) -> Model:
    """Joins the numbers of `take_apart` to a model again. Safe inside differentiated functions."""
    graphdef, like = graph
    values = {name: v for part in parts for name, v in part.items()}
    return nnx.merge(graphdef, names.fill(like, values), copy=True)
