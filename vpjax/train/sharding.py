"""Devices and processes: a mesh, and how arrays are placed on it.

Batches are split over all devices; everything else is replicated. The compiler adds the one sum of
gradients that this needs. Two exceptions save memory:

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
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from vpjax.core import distributed
from vpjax.core.errors import UserError
from vpjax.nn import fsdp


def make_mesh(data: int = -1, devices: list[Any] | None = None, model: int = 1) -> Mesh:
    """Return a mesh of `data` x `model` devices.

    Args:
        data: devices on the axis "data"; -1: as many as are left.
        devices: to choose from; None: all of the run.
        model: devices on the axis "model"; 1: there is no such axis. -1: as many as are left.

    Raises:
        UserError: if there are fewer devices, or several processes would leave some unused.
    """
    devices = devices or distributed.devices()
    there = len(devices)
    for axis, size in (("data", data), ("model", model)):
        if size < 1 and size != -1:
            raise UserError(f"mesh.{axis} is {size}; give 1 or more devices, or -1 for the rest")
    if data == model == -1:
        raise UserError("mesh.data and mesh.model are both -1; give one of them a number")
    rows = there // model if data == -1 else data
    columns = there // data if model == -1 else model
    shape = f"mesh.data is {data}" + (f" and mesh.model {model}" if model != 1 else "")
    if rows < 1 or columns < 1 or rows * columns > there:
        raise UserError(f"{shape}, but there are {there} devices. Lower them, or set -1.")
    if distributed.count() > 1 and rows * columns < there:
        raise UserError(
            f"{shape}, but there are {there} devices in {distributed.count()} processes, and all "
            "must be used. Set mesh.data=-1, or start fewer processes."
        )
    shape, axes = ((rows,), ("data",)) if columns == 1 else ((rows, columns), ("data", "model"))
    types, devices = (AxisType.Auto,) * len(axes), devices[: rows * columns]
    return jax.make_mesh(shape, axes, axis_types=types, devices=devices)


def replicate(values: Any, mesh: Mesh) -> Any:
    """Place a pytree on the devices, whole on every one."""
    return place(values, mesh, {})


def place(values: Any, mesh: Mesh, rules: Mapping[str, str], frozen: bool = False) -> Any:
    """Place a pytree, whose arrays are in dictionaries by name, on the devices.

    Args:
        values: numpy or JAX arrays; those that are not on the mesh yet must be the same in every
            process.
        mesh: the devices.
        rules: {regular expression: axis of the mesh}. Arrays whose name one matches are split
            along their first axis over that axis of the mesh, if it has it; others are replicated.
        frozen: whether to split frozen layers too, as `vpjax.nn.fsdp` says.

    Raises:
        UserError: if an array cannot be split evenly.
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
    return jax.tree.map(put, values, shardings)


def put(value: Any, sharding: Sharding) -> jax.Array:
    """Place an array on devices; of several processes each fills its own."""
    if distributed.count() == 1:
        return jax.device_put(value, sharding)
    if isinstance(value, jax.Array) and not value.is_fully_addressable:  # on the mesh already
        return _moved(sharding)(value)
    own = np.asarray(value)
    return jax.make_array_from_callback(own.shape, sharding, lambda index: own[index])


@functools.cache
def _moved(sharding: NamedSharding) -> Callable:
    return jax.jit(lambda x: x, out_shardings=sharding)


def to_host(values: Any) -> Any:
    """Return the arrays of a pytree as numpy arrays in every process.

    All processes must call it together, as split arrays are gathered.
    """

    def gather(x):
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            x = multihost_utils.process_allgather(x, tiled=True)
        return x

    return jax.device_get(jax.tree.map(gather, values))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Place this process's part of a batch on its devices, split by images."""
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def prefetch(
    batches: Iterator[Mapping[str, np.ndarray]], mesh: Mesh
) -> Iterator[dict[str, jax.Array]]:
    """Yield batches on the devices, one copied ahead, so that copying overlaps with computing."""
    ahead = None
    for batch in batches:
        placed = put_batch(batch, mesh)
        if ahead is not None:
            yield ahead
        ahead = placed
    if ahead is not None:
        yield ahead
