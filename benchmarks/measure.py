"""What both benchmarks measure with: clock, memory, the device's peak, and how results are kept.

A time is the wall clock around one step that has been waited for, so it holds everything a user
waits for, the host's work included. Medians are reported with the shortest and the longest step:
on a shared machine the longest says how much to trust the rest.
"""

import ctypes
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from vpjax.core.errors import UserError

MEGABYTE = 1e6
# Vector units of x86-64 as Linux names them, the widest first: they decide a CPU's speed.
VECTOR_UNITS = (("amx_bf16", "AMX"), ("avx512_bf16", "AVX-512 BF16"), ("avx512f", "AVX-512"))


def command(main: Callable[..., int | None], *arguments: Any) -> NoReturn:
    """Runs a script; what a user can mend becomes one message and exit status 2."""
    try:
        sys.exit(main(*arguments))
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)


def seconds(call: Callable[[], Any], steps: int) -> list[float]:
    """Return how long each of `steps` calls took; a call returns when its work is done."""
    times = []
    for _ in range(steps):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return times


def speed(times: Sequence[float], batch: int) -> dict[str, Any]:
    """Return images a second and milliseconds a step, from the seconds of single steps."""
    median = statistics.median(times)
    return {
        "batch": batch,
        "steps": len(times),
        "images_per_second": batch / median,
        "ms_median": 1e3 * median,
        "ms_min": 1e3 * min(times),
        "ms_max": 1e3 * max(times),
    }


def ms(row: dict[str, Any]) -> str:
    """Formats the times of a step: median [shortest .. longest]."""
    return f"{row['ms_median']:.1f} [{row['ms_min']:.1f} .. {row['ms_max']:.1f}]"


def megabytes(count: int | None) -> str:
    """Formats bytes as MB; "-" where they are not known."""
    return "-" if count is None else f"{count / MEGABYTE:.0f}"


def compiled_bytes(compiled: Any) -> dict[str, int | None]:
    """Return what the compiler sets aside for a step, a device: results in between, arguments."""
    analysis = compiled.memory_analysis()
    return {
        "temporary_bytes": getattr(analysis, "temp_size_in_bytes", None),
        "argument_bytes": getattr(analysis, "argument_size_in_bytes", None),
    }


def highest_bytes() -> int | None:
    """Return the most memory JAX has held on the first device so far; None where unknown.

    It never falls within a process: measure what needs little before what needs much.
    """
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def process_bytes(*, reset: bool = False) -> int | None:
    """Return the most memory this process has held since the last reset, or None.

    Linux counts it; with the C library of GNU, freed memory is first given back at a reset.
    """
    status = Path("/proc/self/status")
    try:
        if reset:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
        line = next(li for li in status.read_text().splitlines() if li.startswith("VmHWM"))
    except (OSError, AttributeError, StopIteration):
        return None
    return 1024 * int(line.split()[1])


def peak_flops(dtype: str, size: int = 0, repeats: int = 10) -> float:
    """Return the floating point operations a second of one large square matrix product.

    The best of `repeats`, as a peak is meant. `size` 0 is 2048 on a CPU and 8192 elsewhere.
    """
    size = size or (2048 if jax.default_backend() == "cpu" else 8192)
    # Random numbers: zeros would draw less power, and a GPU would clock higher than it ever does.
    a, b = (jax.random.normal(jax.random.key(i), (size, size)).astype(dtype) for i in (0, 1))
    with precision(dtype):
        product = jax.jit(jnp.matmul).lower(a, b).compile()
    jax.block_until_ready(product(a, b))
    times = seconds(lambda: jax.block_until_ready(product(a, b)), repeats)
    return 2 * size**3 / min(times)


def precision(dtype: str) -> Any:
    """Return a context in which float32 means float32, as in training."""
    return jax.default_matmul_precision("highest" if dtype == "float32" else None)


def device_name() -> str:
    """Return the device, in words that name no machine."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = platform.machine().replace("_", "-")
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    units = [name for flag, name in VECTOR_UNITS if flag in flags][:1]
    return f"{cores} CPU cores ({', '.join([kind, *units])})"


def conditions(packages: Sequence[str]) -> dict[str, Any]:
    """Return what a figure depends on: date, device, versions."""
    return {
        "date": datetime.date.today().isoformat(),
        "device": device_name(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def heading(title: str, record: dict[str, Any]) -> str:
    """Return the lines above a table."""
    versions = ", ".join(f"{name} {v}" for name, v in record["versions"].items())
    return (
        f"# {title}\n\n{record['date']}, {record['device']}, Python {record['python']}, {versions}"
    )


def save(path: Path, record: dict[str, Any], text: str) -> None:
    """Writes the record as JSON, and what was printed as Markdown beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2, default=list) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
