"""A model as numbers by name and a graph to join them: what trains, what is frozen."""

import re
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from vpjax.core import params
from vpjax.models.model import Model
from vpjax.nn import fsdp


class ModelParts(NamedTuple):
    """A model taken apart: numbers by name, and the graph (structure and shapes) to join them.

    `trainable` alone has gradients and optimiser state; `stats` are running averages that training
    changes.
    """

    graph: tuple[nnx.GraphDef, nnx.State]
    trainable: dict[str, Array]
    stats: dict[str, Array]
    frozen: dict[str, Array]


def partition(model: Model, trainable: str = "", mesh: Mesh | None = None) -> ModelParts:
    """Splits a model by the method's regular expression, or by `trainable` if given.

    With a `mesh`, frozen layers are to be split over its devices, see `vpjax.nn.fsdp`.
    Raises: UserError if the expression matches no parameter.
    """
    graphdef, state = nnx.split(model)
    kinds = {"/".join(map(str, path)): type(v) for path, v in nnx.to_flat_state(state)}
    values = params.flatten(state)
    learnable = [n for n, kind in kinds.items() if issubclass(kind, nnx.Param)]
    learns = params.matching(trainable or model.method.trainable, learnable, "trainable")
    running = [n for n, kind in kinds.items() if issubclass(kind, nnx.BatchStat)]
    stats = {n for n in running if re.fullmatch(model.method.trainable_stats, n)}
    pick = lambda chosen: {n: v for n, v in values.items() if n in chosen}  # noqa: E731
    frozen = pick(values.keys() - learns - stats)
    if mesh is not None:
        fsdp.note(model.backbone.layers, frozen, mesh)
        graphdef = nnx.graphdef(model)
    return ModelParts((graphdef, shapes(state)), pick(learns), pick(stats), frozen)


def shapes(tree: Any) -> Any:
    """Returns a pytree of arrays as shapes and dtypes, holding no memory."""
    return jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), tree)


def merge(graph: tuple, *parts: dict[str, Array]) -> Model:
    """Joins the numbers of `take_apart` to a model again. Safe inside differentiated functions."""
    graphdef, like = graph
    values = {name: v for part in parts for name, v in part.items()}
    return nnx.merge(graphdef, params.fill(like, values), copy=True)
