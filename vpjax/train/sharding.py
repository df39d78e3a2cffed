"""One program for 1 and N devices: a mesh, and where arrays live on it.

Batches are split over all devices; everything else is repeated on every one. The compiler adds the
one sum of gradients that this needs. A method whose own parameters are large may name some (see
`Method.sharded`) whose first axis, and that of their optimiser state, is split over "model".
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vpjax.errors import UserError
from vpjax.train import processes


def make_mesh(data: int = -1, devices: list[Any] | None = None, model: int = 1) -> Mesh:
    """Returns a mesh of `data` x `model` devices; -1: as many as there are left.

    Without a second axis where `model` is 1.
    Raises: UserError if there are fewer.
    """
    devices = devices or processes.devices()
    there = len(devices)
    if data == model == -1:
        raise UserError("mesh.data and mesh.model are both -1; give one of them a number")
    rows = there // max(model, 1) if data == -1 else data
    columns = there // max(data, 1) if model == -1 else model
    if rows < 1 or columns < 1 or rows * columns > there:
        shape = f"mesh.data is {data}" + (f" and mesh.model {model}" if model != 1 else "")
        raise UserError(f"{shape}, but there are {there} devices")
    shape, axes = ((rows,), ("data",)) if columns == 1 else ((rows, columns), ("data", "model"))
    types, devices = (AxisType.Auto,) * len(axes), devices[: rows * columns]
    return jax.make_mesh(shape, axes, axis_types=types, devices=devices)


def check_batch(batch_size: int, mesh: Mesh, what: str = "train.batch_size") -> None:
    """Raises a UserError if a batch cannot be split evenly over the devices."""
    if batch_size < 1 or batch_size % mesh.size:
        raise UserError(
            f"{what} is {batch_size}; it must be a positive multiple of the {mesh.size} devices"
        )


def replicate(values: Any, mesh: Mesh) -> Any:
    """Puts a pytree on every device."""
    return place(values, mesh, {})


def place(values: Any, mesh: Mesh, rules: Mapping[str, str]) -> Any:
    """Puts a pytree of dictionaries by name on the devices: {regular expression: axis}.

    The first axis of arrays whose name a rule matches is split over that axis of the mesh, where
    there is one; everything else is repeated.
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
        return NamedSharding(mesh, PartitionSpec())

    return jax.device_put(values, jax.tree_util.tree_map_with_path(where, values))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Splits this process's share of a batch over its devices."""
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def prefetch(
    batches: Iterator[Mapping[str, np.ndarray]], mesh: Mesh
) -> Iterator[dict[str, jax.Array]]:
    """Keeps one batch ahead on the devices, so that copying overlaps with computing."""
    ahead = None
    for batch in batches:
        placed = put_batch(batch, mesh)
        if ahead is not None:
            yield ahead
        ahead = placed
    if ahead is not None:
        yield ahead
