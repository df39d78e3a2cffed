"""One program for 1 and N devices, of 1 and N processes: a mesh, and where arrays live on it.

Batches are split over all devices; everything else is repeated on every one. The compiler adds the
one sum of gradients that this needs. Two exceptions save memory:

    model    a method whose own parameters are large may name some (see `Method.sharded`) whose
             first axis, and that of their optimiser state, is split over the axis "model"
    fsdp     matrices of frozen layers are split over all devices, see `vpjax.nn.fsdp`
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vpjax.core import distributed
from vpjax.core.errors import UserError
from vpjax.nn import fsdp


def make_mesh(data: int = -1, devices: list[Any] | None = None, model: int = 1) -> Mesh:
    """Return a mesh of `data` x `model` devices; -1: as many as there are left.

    Without a second axis where `model` is 1.
    Raises: UserError if there are fewer, or several processes and some of their devices left over.
    """
    devices = devices or distributed.devices()
    there = len(devices)
    for axis, size in (("data", data), ("model", model)):
        if size < 1 and size != -1:
            raise UserError(f"mesh.{axis} is {size}; give a number of devices, or -1 for the rest")
    if data == model == -1:
        raise UserError("mesh.data and mesh.model are both -1; give one of them a number")
    rows = there // model if data == -1 else data
    columns = there // data if model == -1 else model
    shape = f"mesh.data is {data}" + (f" and mesh.model {model}" if model != 1 else "")
    if rows < 1 or columns < 1 or rows * columns > there:
        raise UserError(f"{shape}, but there are {there} devices")
    if distributed.count() > 1 and rows * columns < there:
        raise UserError(
            f"{shape}, but there are {there} devices in {distributed.count()} processes, which must "
            "all take part. Set mesh.data=-1, or start fewer processes."
        )
    shape, axes = ((rows,), ("data",)) if columns == 1 else ((rows, columns), ("data", "model"))
    types, devices = (AxisType.Auto,) * len(axes), devices[: rows * columns]
    return jax.make_mesh(shape, axes, axis_types=types, devices=devices)


def check_batch(batch_size: int, mesh: Mesh, what: str = "train.batch_size") -> None:
    """Raise a UserError if a batch cannot be split evenly over the devices."""
    if batch_size < 1 or batch_size % mesh.size:
        raise UserError(
            f"{what} is {batch_size}; it must be a positive multiple of the {mesh.size} devices"
        )


def replicate(values: Any, mesh: Mesh) -> Any:
    """Put a pytree on every device."""
    return place(values, mesh, {})


def place(values: Any, mesh: Mesh, rules: Mapping[str, str], frozen: bool = False) -> Any:
    """Put a pytree of dictionaries by name on the devices: {regular expression: axis}.

    The first axis of arrays whose name a rule matches is split over that axis of the mesh, where
    there is one; with `frozen`, what `vpjax.nn.fsdp` splits is split; everything else is repeated.
    Values that are not on the mesh yet must be the same in every process.
    Raises: UserError if it cannot be split evenly.
    """

    def where(path, value):
        names = [p.key for p in path if isinstance(getattr(p, "key", None), str)]
        for rule, axis in rules.items():
            if axis in mesh.shape and any(re.fullmatch(rule, n) for n in names):
                if value.shape[0] % mesh.shape[axis]:
                    raise UserError(
                        f"{names[-1]} has {value.shape[0]} rows, and mesh.{axis} is "
                        f"{mesh.shape[axis]}: rows must be a multiple"
                    )
                return NamedSharding(mesh, PartitionSpec(axis))
        spec = fsdp.partition_spec(names[-1], value.shape, mesh) if frozen else None
        return NamedSharding(mesh, spec or PartitionSpec())

    shardings = jax.tree_util.tree_map_with_path(where, values)
    if distributed.count() == 1:
        return jax.device_put(values, shardings)
    return jax.tree.map(_put, values, shardings)


def _put(value: Any, sharding: NamedSharding) -> jax.Array:
    """Put one array on the devices of several processes, each of which does its own."""
    if isinstance(value, jax.Array) and not value.is_fully_addressable:  # on the mesh already
        return _moved(sharding)(value)
    own = np.asarray(value)
    return jax.make_array_from_callback(own.shape, sharding, lambda index: own[index])


@functools.cache
def _moved(sharding: NamedSharding) -> Callable:
    return jax.jit(lambda x: x, out_shardings=sharding)


def to_host(values: Any) -> Any:
    """Return the numbers of a pytree as numpy, whole, in every process; all must ask at once."""

    def whole(x):
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            x = multihost_utils.process_allgather(x, tiled=True)
        return x

    return jax.device_get(jax.tree.map(whole, values))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Split this process's share of a batch over its devices."""
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def prefetch(
    batches: Iterator[Mapping[str, np.ndarray]], mesh: Mesh
) -> Iterator[dict[str, jax.Array]]:
    """Keep one batch ahead on the devices, so that copying overlaps with computing."""
    ahead = None
    for batch in batches:
        placed = put_batch(batch, mesh)
        if ahead is not None:
            yield ahead
        ahead = placed
    if ahead is not None:
        yield ahead
