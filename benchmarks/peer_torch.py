"""Our steps beside plain PyTorch, at the same work, in one run.

    python -m benchmarks.peer_torch                                     # every task
    python -m benchmarks.peer_torch --tasks vpt_deep_50,sa2vp --forms eager_fp32,compiled_fp32
    python -m benchmarks.peer_torch --tasks small --turns 10 --out small.json
    python -m benchmarks.peer_torch --size Ti --image-size 64 --batch 2 --turns 1    # a rehearsal

Tasks are those of `benchmarks.tasks`. Both sides get the same uint8 images, weights, optimiser and
dropout; ours is the library's own training step, the peers (`torch_*.py`) are written by hand and
run eagerly and compiled, in float32 and under bfloat16 autocast. That both give the same logits is
checked before anything is timed; that three training steps agree, by a test.

Sides take turns, see `benchmarks.race`.
"""

import os

from benchmarks import settings

os.environ.update(settings.environment())  # before JAX and PyTorch are imported

import argparse
import gc
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

from benchmarks import floors, measure
from benchmarks.ours import Data, make_data, our_side
from benchmarks.race import platform, race
from benchmarks.tasks import GROUPS, TASKS, Task, quiet, sized, tiny
from benchmarks.torch_peer import make_peer, peer_side, prepare
from vpjax.core import allocator
from vpjax.core.errors import unknown
from vpjax.core.table import table

FORMS = ("eager_bf16", "compiled_bf16", "eager_fp32", "compiled_fp32")
# A CPU without matrix units for bfloat16 is slower with it; a GPU takes long to compile.
USUAL = {"cpu": "eager_fp32,compiled_fp32", "gpu": "eager_bf16,compiled_bf16,eager_fp32"}
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
REMAT = ("vpt_deep_50",)  # also with remat, on a GPU in bfloat16
TOLERANCE = 1e-3  # of logits, a share of the largest one, in float32
PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch")
HEADER = ("task", "step", "dtype", "who", "images/s", "ms/step [min .. max]")
HEADER += ("ours / this", "turn by turn [middle half]", "shortest", "of floor peak", "peak MB")


def main(argv: Sequence[str]) -> None:
    """Measures what the command line asks for, prints it, and writes it where --out says."""
    given = parser().parse_args(argv)
    allocator.keep()  # where it is asked for; PyTorch gains from it too
    tasks = [chosen(task, given) for task in listed(given.tasks)]
    forms = (given.forms or USUAL[platform()]).split(",")
    keep = lambda record: given.out and measure.save(given.out, record, report(record))  # noqa: E731
    record = benchmark(tasks, given.turns, forms, given.attention, given.minutes, keep)
    print(report(record), flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    out = argparse.ArgumentParser(description="Our steps beside plain PyTorch.")
    add = out.add_argument
    add("--tasks", default=",".join(GROUPS), help=f"names or groups: {', '.join(GROUPS)}")
    add("--forms", default="", help=f"of the peer, comma-separated: {', '.join(FORMS)}")
    add("--turns", type=int, default=8, help="turns of each side")
    add("--batch", type=int, default=0, help="images a step; 0: by task and device")
    add("--size", default="", help="of the ViTs with 16-pixel patches: Ti S B L H")
    add("--image-size", type=int, default=0, help="pixels, of those ViTs")
    add("--attention", default="auto", help="ours: auto, xla, cudnn or blockwise")
    add("--tiny", action="store_true", help="networks of next to no size, to try it out")
    add("--minutes", type=float, default=0, help="begin no further row after so many; 0: all")
    add("--out", type=Path, help="JSON file; Markdown goes beside it")
    return out


def listed(names: str) -> list[Task]:
    """Return tasks by name or group, each once.

    Raises: UserError for an unknown name.
    """
    found: dict[str, Task] = {}
    for name in names.split(","):
        if name not in GROUPS and name not in TASKS:
            raise unknown("task", name, [*GROUPS, *TASKS])
        found |= {task.name: task for task in GROUPS.get(name) or (TASKS[name],)}
    return list(found.values())


def chosen(task: Task, given: argparse.Namespace) -> Task:
    """Return the task as the command line wants it."""
    task = sized(tiny(task) if given.tiny else task, platform())
    if task.backbone == "vit.ViT":
        sizes = {
            "variant": f"{given.size}/16" if given.size else "",
            "image_size": given.image_size,
        }
        task = task._replace(body=task.body | {k: v for k, v in sizes.items() if v})
    return task._replace(batch=given.batch or task.batch)


def benchmark(
    tasks: Sequence[Task],
    turns: int,
    forms: Sequence[str],
    attention: str = "auto",
    minutes: float = 0,
    keep: Callable = lambda record: None,
) -> dict[str, Any]:
    """Return conditions and one row a task, step, dtype and side, ready for JSON.

    `keep` is given the record after every race, as far as it is.
    Raises: UserError for an unknown form, or if the frameworks compute on different devices;
        RuntimeError if their logits differ.
    """
    record, end = begin(forms), time.monotonic() + (60 * minutes or math.inf)
    kinds = {
        dtype: [form.partition("_")[0] for form in FORMS if form in forms and short in form]
        for short, dtype in DTYPES.items()
    }
    for task in tasks:
        heads = [
            {"task": task.name, "step": step, "dtype": dtype}
            for dtype in kinds
            for step in ("inference", "train")
            if kinds[dtype]
        ]
        if time.monotonic() > end:
            record["left_out"] += heads
            continue
        data, peer = matched(task, record)
        for head in heads:
            if time.monotonic() > end:
                record["left_out"].append(head)
                continue
            see_peak(record, head["dtype"])
            sides, floor = make_sides(task, data, peer, kinds[head["dtype"]], head, attention)
            rows = race(sides, task.batch, turns)
            add(record, [head | row | counted(floor) for row in rows])
            del sides  # their memory must not count for the next
            clear()
            keep(record)
    keep(record)
    return record


def matched(task: Task, record: dict[str, Any]) -> tuple[Data, Any]:
    """Return a batch with weights, and the peer, and notes that both sides agree.

    Raises: RuntimeError if they do not.
    """
    data = make_data(task)
    peer = make_peer(task, data)
    differ = difference(task, data, peer)
    record["tasks"][task.name] = task._asdict() | {"logits_differ": differ}
    if not differ <= TOLERANCE:
        raise RuntimeError(f"{task.name}: logits differ by {differ:.1e}: not one function")
    return data, peer


def begin(forms: Sequence[str]) -> dict[str, Any]:
    """Return a record without rows, and sets up PyTorch.

    Raises: UserError as `benchmark` does.
    """
    for form in forms:
        if form not in FORMS:
            raise unknown("form", form, FORMS)
    where = platform()
    prepare()
    known = measure.conditions(PACKAGES) | {"benchmark": "peer_torch", "platform": where}
    known |= {"threads": torch.get_num_threads(), "omp": os.environ.get("OMP_WAIT_POLICY", "")}
    return known | {"peak_flops": {}, "tasks": {}, "rows": [], "left_out": []}


def clear() -> None:
    """Gives back what PyTorch has compiled and keeps of memory."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


def see_peak(record: dict[str, Any], dtype: str) -> None:
    """Measures the device's peak; a CPU's again and again, as other programs may use it."""
    seen = record["peak_flops"].get(dtype, 0.0)
    if not seen or record["platform"] == "cpu":
        record["peak_flops"][dtype] = max(seen, measure.peak_flops(dtype))


def make_sides(
    task: Task, data: Data, peer: Any, kinds: Sequence[str], head: dict[str, str], attention: str
) -> tuple[list, Any]:
    """Return the sides of a race, ours first, and the floor of their work."""
    dtype, train = head["dtype"], head["step"] == "train"
    first, parts = our_side(task, data, dtype, train=train, attention=attention)
    sides = [first]
    if train and task.name in REMAT and dtype == "bfloat16" and jax.default_backend() == "gpu":
        more = our_side(task, data, dtype, train=True, attention=attention, remat="full")
        sides.append(more[0])
    sides += [peer_side(task, data, peer, kind, dtype, train=train) for kind in kinds]
    return sides, floors.of(parts, task.batch, train=train, dtype=dtype)


def counted(floor: Any) -> dict[str, float]:
    """Return the work an image that must be done, where it is known."""
    return {} if floor is None else {"floor_flops": floor.flops}


def add(record: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Adds rows, and prints them, as a run takes long.

    All rows get their share of the device's peak, as that may meanwhile have been seen higher.
    """
    record["rows"] += rows
    for row in record["rows"]:
        if "floor_flops" in row and "failed" not in row:
            work = row["floor_flops"] * row["images_per_second"]
            row["of_floor_peak"] = work / record["peak_flops"][row["dtype"]]
    for row in rows:
        print("  ".join(cells(row)), flush=True)


def difference(task: Task, data: Data, peer: Any) -> float:
    """Return the largest difference of a logit as a share of the largest, both in float32."""
    task = quiet(task)
    ours = our_side(task, data, "float32", train=False, attention="xla")[0].call()
    theirs = peer_side(task, data, peer, "eager", "float32", train=False).call().cpu().numpy()
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def report(record: dict[str, Any]) -> str:
    """Return the record for people."""
    title = measure.heading("Beside plain PyTorch", record)
    batches = sorted({f"{n}: {t['batch']}" for n, t in record["tasks"].items()})
    about = f"Images a step: {', '.join(batches)}. {agreement(record)}"
    peaks = [f"{v / 1e12:.3g} TFLOP/s in {k}" for k, v in record["peak_flops"].items()]
    about += f" Peak of a matrix product: {', '.join(peaks)}."
    parts = [title, about, table(HEADER, [cells(r) for r in record["rows"]], align="llllr")]
    if record["left_out"]:
        names = [f"{r['task']} {r['step']} {r['dtype']}" for r in record["left_out"]]
        parts.append(f"Not measured, for want of time: {', '.join(names)}.")
    return "\n\n".join(parts)


def agreement(record: dict[str, Any]) -> str:
    """Return the line about correctness."""
    worst = max((t["logits_differ"] for t in record["tasks"].values()), default=0.0)
    return (
        f"Same weights, float32: logits differ by at most {worst:.1e} of the largest "
        f"(allowed: {TOLERANCE:.0e})."
    )


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row of the table."""
    head = [row["task"], row["step"], row["dtype"], row["who"]]
    if "failed" in row:
        return [*head, "-", row["failed"], "-", "-", "-", "-", "-"]
    low, high = row["ours_over_this_spread"]
    return [
        *head,
        f"{row['images_per_second']:.1f}",
        measure.ms(row),
        f"{row['ours_over_this']:.2f}",
        f"{row['ours_over_this_pairs']:.2f} [{low:.2f} .. {high:.2f}]",
        f"{row['ours_over_this_shortest']:.2f}",
        floors.percent(row.get("of_floor_peak")),
        measure.megabytes(row["peak_bytes"]),
    ]


if __name__ == "__main__":
    measure.command(main, sys.argv[1:])
