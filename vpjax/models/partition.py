"""A model split into arrays by name, trainable and frozen, and a graph to merge them again."""

from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from vpjax.core import params
from vpjax.core.table import table
from vpjax.nn import fsdp

ROWS = 30  # of the table of parameters


class ModelParts(NamedTuple):
    """A model split into flat dictionaries {name: array}.

    Attributes:
        graph: structure and shapes, with which `merge` builds the model again.
        trainable: parameters that have gradients and optimiser state.
        stats: running averages that training changes.
        frozen: everything else.
    """

    graph: tuple[nnx.GraphDef, nnx.State]
    trainable: dict[str, Array]
    stats: dict[str, Array]
    frozen: dict[str, Array]


def partition(model: nnx.Module, trainable: str = "", mesh: Mesh | None = None) -> ModelParts:
    """Split a model into what trains and what is frozen.

    Args:
        model: a `vpjax.models.model.Model`.
        trainable: regular expression of the parameters that train; "": the method's own.
        mesh: devices that frozen layers will be split over, see `vpjax.nn.fsdp`; None: not split.

    Raises:
        UserError: if the expression matches no parameter.
    """
    graphdef, state = nnx.split(model)
    kinds = {"/".join(map(str, path)): type(v) for path, v in nnx.to_flat_state(state)}
    values = params.flatten(state)
    learnable = [n for n, kind in kinds.items() if issubclass(kind, nnx.Param)]
    pattern = trainable or model.method.trainable
    learns = params.matching(pattern, learnable, "trainable") if pattern else set()
    stats = model.trainable_stats
    pick = lambda chosen: {n: v for n, v in values.items() if n in chosen}  # noqa: E731
    frozen = pick(values.keys() - learns - stats)
    if mesh is not None:
        fsdp.mark_split(model.backbone.layers, frozen, mesh)
        graphdef = nnx.graphdef(model)
    return ModelParts((graphdef, shapes(state)), pick(learns), pick(stats), frozen)


def shapes(tree: Any) -> Any:
    """Return a pytree with each array replaced by its shape and dtype, which take no memory."""
    return jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), tree)


def merge(graph: tuple, *parts: dict[str, Any]) -> Any:
    """Build the model again from its graph and dictionaries of arrays.

    Safe inside functions that are differentiated or jitted.

    Args:
        graph: of `ModelParts`.
        parts: dictionaries {name: array} that together hold every array once.
    """
    graphdef, like = graph
    values = {name: v for part in parts for name, v in part.items()}
    return nnx.merge(graphdef, params.fill(like, values), copy=True)


def trainable_table(parts: ModelParts) -> str:
    """Return a text table of what trains: name, shape, count, and share of all parameters."""
    trainable, frozen = parts.trainable, parts.frozen
    total = sum(v.size for v in (*trainable.values(), *frozen.values()))
    rows = [
        [name, " x ".join(map(str, v.shape)) or "scalar", f"{v.size:,}", percent(v.size, total)]
        for name, v in trainable.items()
    ]
    if len(rows) > ROWS:
        rest = sum(v.size for v in list(trainable.values())[ROWS:])
        more = [f"... and {len(rows) - ROWS} more", "", f"{rest:,}", percent(rest, total)]
        rows = rows[:ROWS] + [more]
    count = sum(v.size for v in trainable.values())
    rows.append(["trainable", "", f"{count:,}", percent(count, total)])
    rows.append(["frozen", "", f"{total - count:,}", percent(total - count, total)])
    return table(["parameter", "shape", "count", "share"], rows, "llrr")


def trainable_line(parts: ModelParts) -> str:
    """Return "trainable 1,781 of 79,205 (2.25 %)"."""
    count = sum(v.size for v in parts.trainable.values())
    total = count + sum(v.size for v in parts.frozen.values())
    return f"trainable {count:,} of {total:,} ({percent(count, total)})"


def percent(part: int, whole: int) -> str:
    """Return "1.63 %"."""
    return f"{100 * part / whole:.2f} %"
