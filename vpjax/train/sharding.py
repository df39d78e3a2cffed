"""One program for 1 and N devices: a mesh, and where arrays live on it.

Batches are split over the axis "data"; everything else is repeated on every device. The compiler
adds the one sum of gradients that this needs.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vpjax.errors import UserError


def make_mesh(data: int = -1, devices: list[Any] | None = None) -> Mesh:
    """Returns a mesh of `data` devices (-1: all).

    Raises: UserError if there are fewer.
    """
    devices = devices or jax.devices()
    count = len(devices) if data == -1 else data
    if not 1 <= count <= len(devices):
        raise UserError(f"mesh.data is {data}, but there are {len(devices)} devices")
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:count])


def check_batch(batch_size: int, mesh: Mesh, what: str = "train.batch_size") -> None:
    """Raises a UserError if a batch cannot be split evenly over the devices."""
    if batch_size < 1 or batch_size % mesh.shape["data"]:
        raise UserError(
            f"{what} is {batch_size}; it must be a positive multiple of the {mesh.shape['data']} "
            "devices of the data axis"
        )


def replicate(values: Any, mesh: Mesh) -> Any:
    """Puts a pytree on every device."""
    return jax.device_put(values, NamedSharding(mesh, PartitionSpec()))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Splits this process's share of a batch over its devices."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
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
