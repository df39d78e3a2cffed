"""What `benchmarks.all` runs: scripts, with options by kind of machine, and how long they take."""

from collections.abc import Mapping
from typing import NamedTuple


class Part(NamedTuple):
    """A benchmark. `options` and `minutes` are by "cpu", "gpu" and "quick"; none: it does not run.

    Minutes are of a quiet machine of 2 cores, or of an H200; they only serve to show how long the
    rest will take.
    """

    name: str
    module: str
    options: Mapping[str, tuple[str, ...]]
    minutes: Mapping[str, float]
    needs: tuple[str, ...] = ()  # packages
    table: str = ""  # of the page, that its report goes into


LIBRARY = ("ml_collections", "clu")
TORCH = ("torch",)
RECIPE = ("--config", "configs/vpt_cifar224.py")
REHEARSAL = ("--tiny", "--turns", "1", "--forms", "eager_fp32", "--tasks")


def races(name: str, tasks: str, turns: int, *, cpu: float, gpu: float) -> Part:
    """Return a part of `benchmarks.peer_torch`, and its minutes by device."""
    options = {
        "cpu": ("--tasks", tasks, "--turns", str(turns)),
        # Compiling takes most of the time there: rows that would begin too late are left out.
        "gpu": ("--tasks", tasks, "--turns", str(turns), "--minutes", str(gpu)),
        "quick": (*REHEARSAL, "cnn_prompt" if tasks == "small" else tasks.rpartition(",")[2]),
    }
    minutes = {"cpu": cpu, "gpu": gpu + 0.3, "quick": 0.5}
    return Part(f"peer_{name}", "benchmarks.peer_torch", options, minutes, TORCH)


# What matters most comes first, as the time may be up before the end.
PARTS = (
    races("vpt", "vpt_deep_50,vpt_deep_100", 5, cpu=6, gpu=3.3),
    races("more", "vpt_deep_10,vpt_shallow_50,full,linear,sa2vp", 3, cpu=16, gpu=2.4),
    races("small", "small", 3, cpu=9, gpu=0.8),
    Part(
        "memory_deep",
        "benchmarks.memory",
        # Not in a rehearsal: what it claims does not hold for tiny networks.
        {"cpu": ("--models", "B/16", "--only", "224 px deep", "--segments", "")},
        {"cpu": 1.0},
        table="memory",
    ),
    Part(
        "floors_some",
        "benchmarks.floors",
        {"cpu": ("--models", "B/16", "--only", "^(linear|full|VPT (deep|shallow) 50|SA2VP)$")},
        {"cpu": 1.2},
    ),
    # All of it takes 15 minutes to compile and changes with the code alone: run it by hand.
    Part(
        "floors",
        "benchmarks.floors",
        {"quick": ("--models", "Ti/16", "--only", "linear", "--batch", "2")},
        {"quick": 0.5},
        table="floors",
    ),
    Part(
        "startup",
        "benchmarks.startup",
        {
            "cpu": ("--repeats", "1"),
            "quick": ("--repeats", "1", "--recipe", "configs/digits.py:vpt_deep"),
        },
        {"cpu": 1.5, "quick": 1.0},
        (*LIBRARY, "grain"),
        "startup",
    ),
    Part(
        "step",
        "benchmarks.step",
        {
            "cpu": (*RECIPE, "--config.dtype=float32", "--batch", "8", "--steps", "4"),
            "quick": ("--config", "configs/digits.py", "--batch", "8", "--steps", "1"),
        },
        {"cpu": 0.7, "quick": 0.5},
        LIBRARY,
    ),
    Part(
        "peer_bf16",
        "benchmarks.peer_torch",
        {"cpu": ("--tasks", "vpt_deep_50", "--forms", "eager_bf16", "--turns", "2")},
        {"cpu": 1.5},
        TORCH,
    ),
    Part(
        "sa2vp",
        "benchmarks.sa2vp",
        {"cpu": ("--batch", "2")},
        {"cpu": 0.5},
    ),
    Part(
        "input",
        "benchmarks.input",
        {
            "cpu": ("--config", "configs/vpt_fgvc.py:cub", "--train_rate", "2"),
            "quick": ("--config", "configs/digits.py", "--count", "16", "--batch", "8")
            + ("--train_rate", "2"),
        },
        {"cpu": 0.4, "quick": 0.3},
        LIBRARY,
    ),
    Part(
        "feature_cache",
        "benchmarks.feature_cache",
        {"cpu": ("--images", "256")},
        {"cpu": 1.0},
        LIBRARY,
    ),
)
