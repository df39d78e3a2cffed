"""How much memory a device has free, and how much a compiled step needs."""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh

SHARE = 0.9  # of the free memory; prefetched batches and other programs need the rest
GROUP = Path("/sys/fs/cgroup")  # limits of a container, on Linux


def step_bytes(compiled: Any) -> int:
    """Return the bytes that a compiled step needs on each device besides its arguments."""
    plan = compiled.memory_analysis()
    return plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes


def free_bytes(mesh: Mesh) -> int | None:
    """Return the bytes that a step may use on a device of the mesh; None if that is not known.

    Memory that is in use already, such as that of the weights, is not free.
    """
    device = mesh.local_devices[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(SHARE * stats["bytes_limit"]) - stats.get("bytes_in_use", 0)
    free = system_bytes() if device.platform == "cpu" else None
    return free and int(SHARE * free / len(mesh.local_devices))


def system_bytes() -> int | None:
    """Return the free bytes of the system, or of this container if fewer; None if not on Linux."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(1024 * int(li.split()[1]) for li in lines if li.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    try:
        limit, used = (int((GROUP / f"memory.{n}").read_text()) for n in ("max", "current"))
    except (OSError, ValueError):  # no such group, or one without a limit
        return free
    return min(free, limit - used)
