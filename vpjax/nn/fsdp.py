"""Frozen layers split over the devices and gathered only while they run ("fully sharded", FSDP).

    stored   every matrix of a frozen layer is split along one of its axes over all devices
    used     gathered where the layer begins, dropped where it ends, gathered again in the backward
             pass

A device then holds 1 / n of the layers' parameters and a few whole layers, at the price of sending
them once forward and once backward. Frozen parameters have no gradient, so nothing is scattered.

Which parameters are split is recorded on the layers themselves when a model is built, so that the
loop over layers (`vpjax.nn.stack.run_layers`) gathers them for every caller: training, evaluation,
features, pictures. Elsewhere, and in checkpoints, nothing changes.
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
# Operations that only reshape, cast or gather: computed again in the backward pass, which costs
# nothing but the sending.
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
    """Which parameters of a layer are split over which devices.

    Attributes:
        mesh: the devices.
        names: of the parameters, relative to the layer, such as "attn/query/kernel".
    """

    mesh: Mesh
    names: frozenset[str]


def partition_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec | None:
    """Return how a frozen array is split over the devices of a mesh; None: it is not split.

    A matrix of a layer is split along the first axis whose size the number of devices divides.

    Args:
        name: of the parameter, such as "backbone/layers/3/mlp/fc1/kernel".
        shape: of the array.
        mesh: the devices.
    """
    if mesh.size == 1 or not KERNEL.fullmatch(name):
        return None
    for axis, size in enumerate(shape):
        if size and size % mesh.size == 0:
            return PartitionSpec(*(None,) * axis, mesh.axis_names)
    return None


def mark_split(layers: Iterable[nnx.Module], frozen: Mapping[str, Any], mesh: Mesh) -> None:
    """Record on a backbone's layers which of their arrays will be split.

    Args:
        layers: of the backbone; each gets an attribute `shards`.
        frozen: arrays, or their shapes, by name.
        mesh: the devices they will be split over.
    """
    found: dict[str, set[str]] = {}
    for name, value in frozen.items():
        if partition_spec(name, value.shape, mesh) is not None:
            place, own = KERNEL.fullmatch(name).groups()
            found.setdefault(place, set()).add(own)
    for i, layer in enumerate(layers):
        if own := found.get(f"backbone/layers/{i}"):
            layer.shards = Shards(mesh, frozenset(own))


def is_split(layer: Any) -> bool:
    """Return whether parameters of a layer are split over devices."""
    return getattr(layer, "shards", None) is not None


def gather(layer: Any, state: Any) -> tuple[Any, Any]:
    """Return a layer with all of its parameters on every device, and the state that enters it.

    The state passes through, so that the layer is gathered after the state has been computed: else
    a compiler may gather all layers before the first one begins.
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


def save_all_but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    """Decide, as a policy of `jax.checkpoint`, to keep every result but gathered parameters."""
    return primitive.name not in VIEWS
