"""A model as numbers by name and a graph to join them: what trains, what is frozen."""

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
    """A model taken apart: numbers by name, and the graph (structure and shapes) to join them.

    `trainable` alone has gradients and optimiser state; `stats` are running averages that training
    changes.
    """

    graph: tuple[nnx.GraphDef, nnx.State]
    trainable: dict[str, Array]
    stats: dict[str, Array]
    frozen: dict[str, Array]


def partition(model: nnx.Module, trainable: str = "", mesh: Mesh | None = None) -> ModelParts:
    """Split a model by the method's regular expression, or by `trainable` if given.

    With a `mesh`, frozen layers are to be split over its devices, see `vpjax.nn.fsdp`.
    Raises: UserError if the expression matches no parameter.
    """
    graphdef, state = nnx.split(model)
    kinds = {"/".join(map(str, path)): type(v) for path, v in nnx.to_flat_state(state)}
    values = params.flatten(state)
    learnable = [n for n, kind in kinds.items() if issubclass(kind, nnx.Param)]
    learns = params.matching(trainable or model.method.trainable, learnable, "trainable")
    stats = model.trainable_stats
    pick = lambda chosen: {n: v for n, v in values.items() if n in chosen}  # noqa: E731
    frozen = pick(values.keys() - learns - stats)
    if mesh is not None:
        fsdp.mark_split(model.backbone.layers, frozen, mesh)
        graphdef = nnx.graphdef(model)
    return ModelParts((graphdef, shapes(state)), pick(learns), pick(stats), frozen)


def shapes(tree: Any) -> Any:
    """Return a pytree of arrays as shapes and dtypes, holding no memory."""
    return jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), tree)


def merge(graph: tuple, *parts: dict[str, Any]) -> Any:
    """Return the `Model` of a graph and its numbers. Safe inside differentiated functions."""
    graphdef, like = graph
    values = {name: v for part in parts for name, v in part.items()}
    return nnx.merge(graphdef, params.fill(like, values), copy=True)


def trainable_table(parts: ModelParts) -> str:
    """Return what trains as a table: name, shape, count, and the share of all parameters."""
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
    """Return "trainable 1,781 of 117,610 (1.51 %)"."""
    count = sum(v.size for v in parts.trainable.values())
    total = count + sum(v.size for v in parts.frozen.values())
    return f"trainable {count:,} of {total:,} ({percent(count, total)})"


def percent(part: int, whole: int) -> str:
    """Return "1.63 %"."""
    return f"{100 * part / whole:.2f} %"
