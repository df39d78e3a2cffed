"""How much memory a device has left, and how much a compiled step takes of it."""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh

SHARE = 0.9  # of what is free; batches on their way, and whatever else runs, need the rest
GROUP = Path("/sys/fs/cgroup")  # what a container may take, on Linux


def step_bytes(compiled: Any) -> int:
    """Return what a step needs on each device besides its arguments, by the compiler's plan."""
    plan = compiled.memory_analysis()
    return plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes


def free_bytes(mesh: Mesh) -> int | None:
    """Return what a step may take on a device of the mesh; None where that is not known.

    What lies on the device already, such as weights, is not counted as free.
    """
    device = mesh.local_devices[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(SHARE * stats["bytes_limit"]) - stats.get("bytes_in_use", 0)
    free = system_bytes() if device.platform == "cpu" else None
    return free and int(SHARE * free / len(mesh.local_devices))


def system_bytes() -> int | None:
    """Return the system's free memory, or what is left to this container; None if not on Linux."""
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
