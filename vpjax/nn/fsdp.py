"""Frozen layers split over the devices, each whole only while it works ("fully sharded").

    stored   every matrix of a frozen layer lies on one of its axes over all devices
    used     gathered where the layer begins, dropped where it ends, gathered again going back

A device then holds 1 / n of the layers' numbers and a few layers whole, at the price of sending
them once forward and once back. Frozen numbers have no gradient, so nothing is ever scattered.

Which numbers are split is noted on the layers themselves when a model is built, so that the loop
over layers (`vpjax.nn.stack.run_layers`) gathers them for whoever runs it: training, evaluation, features,
pictures. Elsewhere, and in checkpoints, nothing changes.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vpjax.core import params

KERNEL = re.compile(r"(backbone/layers/\d+)/(.*kernel)")
# What reshapes, casts and gathers: made again from what it was made of, at no cost but the sending.
VIEWS = frozenset(
    {
        "broadcast_in_dim",
        "convert_element_type",
        "optimization_barrier",
        "reshape",
        "sharding_constraint",
        "squeeze",
        "transpose",
    }
)


@dataclasses.dataclass(frozen=True)
class Shards:
    """Which numbers of a layer, by its own names, are split over which devices."""

    mesh: Mesh
    names: frozenset[str]


def spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec | None:
    """Return how a frozen array is split: on the first axis that the devices divide; None: not."""
    if mesh.size == 1 or not KERNEL.fullmatch(name):
        return None
    for axis, size in enumerate(shape):
        if size and size % mesh.size == 0:
            return PartitionSpec(*(None,) * axis, mesh.axis_names)
    return None


def note(layers: Iterable[nnx.Module], frozen: Mapping[str, Any], mesh: Mesh) -> None:
    """Note on a backbone's layers which of the `frozen` arrays (or shapes) will be split."""
    found: dict[str, set[str]] = {}
    for name, value in frozen.items():
        if spec(name, value.shape, mesh) is not None:
            place, own = KERNEL.fullmatch(name).groups()
            found.setdefault(place, set()).add(own)
    for i, layer in enumerate(layers):
        if own := found.get(f"backbone/layers/{i}"):
            layer.shards = Shards(mesh, frozenset(own))


def is_split(layer: Any) -> bool:
    """Whether numbers of a layer are split over devices."""
    return getattr(layer, "shards", None) is not None


def whole(layer: Any, state: Any) -> tuple[Any, Any]:
    """Return a layer with all of its numbers on every device, and the state that enters it.

    Only together with the state: else a compiler may gather all layers before the first begins.
    """
    if not is_split(layer):
        return layer, state
    everywhere = NamedSharding(layer.shards.mesh, PartitionSpec())
    graph, numbers = nnx.split(layer)
    values = params.flatten(numbers)
    shards = {n: values[n] for n in layer.shards.names}
    shards, state = jax.lax.optimization_barrier((shards, state))
    values |= jax.lax.with_sharding_constraint(shards, everywhere)
    return nnx.merge(graph, params.fill(numbers, values), copy=True), state


def all_but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    """A policy of `jax.checkpoint` that keeps all that work made, and no gathered number."""
    return primitive.name not in VIEWS
