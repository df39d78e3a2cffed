"""What flash attention and rematerialisation save in prompt tuning, and that they change nothing.

    python -m benchmarks.memory                                    # the whole table
    python -m benchmarks.memory --models B/16 --only "224.*shallow" --batch 8
    python -m benchmarks.memory --models Ti/16 --layers 2 --batch 2 --num-tokens 10    # quick
    python -m benchmarks.memory --from benchmarks/results/memory-x.json                # draw again

Cells are {model} x {pixels} x {shallow, deep} x flash {off, on} x remat {off, on}, and the first
model at the middle size with remat in different numbers of segments. "flash on" is the device's
fused attention, or attention a head at a time where it has none. Each cell is a process of its own;
one that fails, for want of memory say, is told in the table and the others go on.

Memory is what the compiler sets aside for one whole training step, so a laptop can fill the table;
on a GPU steps also run, and the most memory held is measured. The exit status is 1 if a claim about
the figures does not hold.
"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the cells need the memory

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import measure
from benchmarks.memory_cell import Cell
from benchmarks.memory_report import claims, report
from vpjax.backbones.vit import SIZES, parse
from vpjax.core.errors import UserError, unknown

HOME = Path(__file__).resolve().parents[1]
PACKAGES = ("jax", "jaxlib", "flax", "optax")
DEPTHS = {"shallow": False, "deep": True}
# By default a CPU orders operations for speed of many small ones, and recomputes early what remat
# meant to recompute late.
CPU_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"


def main(argv: Sequence[str]) -> int:
    """Fills the table, prints it, writes it; returns the exit status."""
    given = parser().parse_args(argv)
    if given.source:
        return finish(json.loads(given.source.read_text()), given.source)
    table = cells(given)
    record = measure.conditions(PACKAGES) | {"benchmark": "memory", "xla_flags": cpu_flags()}
    record["rows"] = run(table, record["xla_flags"])
    if given.steps:
        record["peak_flops"] = measure.peak_flops(given.dtype)
    return finish(record, given.out or default_path())


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    on_gpu = jax.default_backend() == "gpu"
    out = argparse.ArgumentParser(prog="benchmarks.memory", description=__doc__.split("\n")[0])
    add = out.add_argument
    add("--models", default="B/16,L/16", help="ViTs, comma-separated")
    add("--pixels", default="112,224,336", help="edges of the images")
    add("--depths", default="shallow,deep", help="of the prompts")
    add(
        "--segments", default="1,2,3,4,6,12", help="of the first model at the middle size; '': none"
    )
    add("--num-tokens", type=int, default=100, help="prompts, in each layer where deep")
    add("--layers", type=int, default=0, help="keep only so many of a model; 0: all")
    add("--only", default="", help="regular expression over names of cells")
    add("--batch", type=int, default=64 if on_gpu else 32, help="images a step")
    add("--dtype", default="bfloat16" if on_gpu else "float32", help="float32 or bfloat16")
    add("--steps", type=int, default=20 if on_gpu else 0, help="timed steps; 0: compile only")
    add("--check", type=int, default=2 if on_gpu else 1, help="images compared with the plain path")
    add("--out", type=Path, help="JSON file; Markdown and the plot go beside it")
    add("--from", dest="source", type=Path, help="a JSON file to report again; nothing is run")
    return out


def cells(given: argparse.Namespace) -> list[Cell]:
    """Return what to measure, the plain cell of each group first.

    Raises: UserError for options that cannot be.
    """
    models, depths = listed(given.models), listed(given.depths)
    for model in models:
        parse(model)
    for depth in depths:
        if depth not in DEPTHS:
            raise unknown("depth", depth, DEPTHS)
    if given.dtype not in ("float32", "bfloat16"):
        raise UserError(f"--dtype is {given.dtype!r}; choose float32 or bfloat16")
    pixels, segments = whole(given.pixels, "--pixels"), whole(given.segments, "--segments")
    if not models or not pixels or min(given.batch, given.check, given.num_tokens) < 1:
        raise UserError("give at least one model and size; batch, check, num-tokens are above 0")
    same = {n: getattr(given, n) for n in ("num_tokens", "layers", "dtype", "batch", "steps")}
    same["check"] = given.check
    switches = [(flash, remat) for remat in (False, True) for flash in (False, True)]
    found = [
        Cell(model, size, DEPTHS[depth], flash, remat, **same)
        for model in models
        for size in pixels
        for depth in depths
        for flash, remat in switches
    ]
    middle = sorted(pixels)[len(pixels) // 2]
    count = given.layers or SIZES[parse(models[0])[0]][3]
    found += [
        Cell(models[0], middle, DEPTHS[depth], flash, True, number, **same)
        for depth in depths
        for number in segments
        if number < count  # as many as layers is what remat does unless told
        for flash in (False, True)
    ]
    try:
        chosen = [c for c in found if re.search(given.only, c.name)]
    except re.error as e:
        raise UserError(f"--only {given.only!r} is not a regular expression: {e}") from e
    if not chosen:
        raise UserError(
            f"--only {given.only!r} matches none of {len(found)} cells: {found[0].name}"
        )
    return chosen


def listed(text: str) -> list[str]:
    """Splits at commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def whole(text: str, option: str) -> list[int]:
    """Splits at commas into numbers above 0."""
    if not all(part.isdigit() and int(part) for part in listed(text)):
        raise UserError(f"{option} is {text!r}; give numbers above 0, comma-separated")
    return [int(part) for part in listed(text)]


def cpu_flags() -> str:
    """Return flags for XLA that make a CPU's figures mean something; an XLA without them dies."""
    if jax.default_backend() != "cpu":
        return ""
    probe = [sys.executable, "-c", "import jax; jax.devices()"]
    found = subprocess.run(probe, env=environment(CPU_ORDER), capture_output=True)
    return CPU_ORDER if found.returncode == 0 else ""


def environment(flags: str) -> dict[str, str]:
    """Return the environment of a cell; an error's last line is then what went wrong."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    return os.environ | {"XLA_FLAGS": flags, "JAX_TRACEBACK_FILTERING": "off"}


def run(table: Sequence[Cell], flags: str) -> list[dict[str, Any]]:
    """Measures cell by cell, and says how far it is."""
    rows, begin = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for i, cell in enumerate(table, start=1):
            rows.append(measured(cell, folder, flags))
            took = time.monotonic() - begin
            left = took / i * (len(table) - i)
            size = measure.megabytes(rows[-1].get("temporary_bytes"))
            said = f"failed: {rows[-1]['failed']}" if "failed" in rows[-1] else f"{size} MB"
            print(f"[{i}/{len(table)}] {cell.name}: {said}; {left:.0f} s left", flush=True)
    return rows


def measured(cell: Cell, folder: str, flags: str) -> dict[str, Any]:
    """Runs one cell; its row, or why there is none."""
    command = [sys.executable, "-m", "benchmarks.memory_cell", json.dumps(cell._asdict()), folder]
    done = subprocess.run(command, env=environment(flags), cwd=HOME, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    reason = "killed, most likely for want of memory" if done.returncode == -9 else last
    return cell._asdict() | {"name": cell.name, "failed": reason}


def default_path() -> Path:
    """Return where results go unless told."""
    kind = re.sub(r"[^a-z0-9]+", "-", jax.devices()[0].device_kind.lower()).strip("-")
    return HOME / "benchmarks" / "results" / f"memory-{kind}.json"


def finish(record: dict[str, Any], path: Path) -> int:
    """Prints and writes the report; returns 1 if a claim does not hold or none could be checked."""
    found = claims(record["rows"])
    text = report(record, found)
    print(text, flush=True)
    measure.save(path, record, text)
    try:
        from benchmarks.memory_plot import plot

        plot(record["rows"], path.with_suffix(".png"))
    except ImportError:
        print(f"no plot without matplotlib; later: --from {path.name}")
    return (
        0 if {c.holds for c in found} >= {True} and not any(c.holds is False for c in found) else 1
    )


if __name__ == "__main__":
    measure.command(main, sys.argv[1:])
