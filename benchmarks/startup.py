"""From the command to the end of the first training step, in fresh processes of main.py.

    python -m benchmarks.startup --out benchmarks/results/startup_cpu.json
    python -m benchmarks.startup --recipe configs/digits.py:vpt_deep --repeats 5
    python -m benchmarks.startup --config.dtype=bfloat16 --config.train.batch_size=64      # GPU

cold   no compiled program is on disk
warm   those of the run before are

The default is VPT-deep on a ViT-B/16 with random weights, on 8 of the embedded digits a batch at
224 pixels. Any key of its config can be set. The data set is prepared once before the clock starts.
What takes how long is what the run itself has noted, see `vpjax.runs.startup`.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from vpjax.cli import flags, overrides
from vpjax.core.errors import UserError
from vpjax.core.table import table

HOME = Path(__file__).resolve().parents[1]
RECIPE = "configs/vpt_cifar224.py"
# On a recipe of photos and pretrained weights: nothing that is not in the repository.
SMALL = {
    "backbone.weights": "",
    "data.name": "digits/high",
    "data.preset": "inception",
    "dtype": "float32",
    "train.batch_size": "8",
}
SHORT = {"train.steps": "1", "data.val": "", "data.test": "", "draw": "False", "curves": "False"}
PARTS = ("imports", "model", "data", "open", "compile", "step")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")


def main(argv: Sequence[str]) -> None:
    """Measures what the command line asks for, prints it, and writes it where --out says."""
    parser = flags.Parser("benchmarks.startup", allow_abbrev=False)
    parser.add_argument("--recipe", default=RECIPE, help="a recipe")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind")
    parser.add_argument("--out", type=Path, help="JSON file; Markdown goes beside it")
    changes, rest = overrides.take(argv[1:])
    given = parser.parse_args(rest)
    if given.repeats < 1:
        raise UserError("--repeats must be above 0")
    settings = (SMALL if given.recipe == RECIPE else {}) | SHORT
    arguments = [f"--config={given.recipe}", *(f"--config.{k}={v}" for k, v in settings.items())]
    arguments += [f"--config.{key}={value}" for key, value in changes]
    record = benchmark(arguments, given.repeats)
    text = report(record)
    print(text, flush=True)
    if given.out:
        measure.save(given.out, record, text)


def benchmark(arguments: list[str], repeats: int) -> dict[str, Any]:
    """Return conditions, and the parts of every start, ready for JSON."""
    starts = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory(prefix="vpjax-startup-") as name:
        folder = Path(name)
        launch(arguments, folder)  # prepares the data set, and brings files into memory
        for _ in range(repeats):
            shutil.rmtree(folder / "cache" / "xla", ignore_errors=True)
            for kind in starts:
                starts[kind].append(launch(arguments, folder))
    known = measure.conditions(PACKAGES)
    return known | {"benchmark": "startup", "arguments": arguments, "starts": starts}


def launch(arguments: list[str], folder: Path) -> dict[str, float]:
    """Runs main.py in a process of its own; returns the seconds of what came before its first step.

    Raises: UserError with what it printed, if it fails.
    """
    # A cache that the user has named would never be cold.
    own = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    own |= {"VPJAX_CACHE": str(folder / "cache")}
    place = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, str(HOME / "main.py"), *arguments, f"--workdir={place}"]
    done = subprocess.run(command, cwd=HOME, env=own, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return json.loads((place / "result.json").read_text())["startup"]


def report(record: dict[str, Any]) -> str:
    """Return the record for people: conditions and a row for cold and warm."""
    named = [p for p in ("total", *PARTS) if p in record["starts"]["cold"][0]]
    rows = []
    for kind, starts in record["starts"].items():
        column = lambda part, starts=starts: [start[part] for start in starts]  # noqa: E731
        spread = f"{min(column('total')):.1f} .. {max(column('total')):.1f}"
        medians = [f"{statistics.median(column(part)):.1f}" for part in named]
        rows.append([kind, str(len(starts)), medians[0], spread, *medians[1:]])
    return "\n\n".join(
        [
            measure.heading("From the command to the end of the first step", record),
            f"`python main.py {' '.join(record['arguments'])}`",
            table(["start", "processes", "seconds", "min .. max", *named[1:]], rows, "lr"),
            "Medians. What the parts are: `vpjax/runs/startup.py`.",
        ]
    )


if __name__ == "__main__":
    measure.command(main, sys.argv)
