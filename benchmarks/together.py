"""Seeds trained at once beside one after the other: runs an hour on small networks.

    python -m benchmarks.together                                 # the embedded digits, 3 seeds
    python -m benchmarks.together --seeds 3 8 --out together.json # 8 minutes on two CPU cores

Both sides take turns, a few steps each, so that what else a machine does hits them alike. A run is
400 steps; compiling is counted apart, because its result is kept on disk.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import measure
from configs import digits, msvp
from configs.ablate_backbone import narrower
from vpjax.core.table import table
from vpjax.runs import program, together
from vpjax.runs.experiment import image_loader, prepare
from vpjax.train.sharding import put_batch

STEPS = 400  # of a run
STRETCH = 5  # steps of a turn
PACKAGES = ("jax", "jaxlib", "flax")


def cases() -> dict[str, ConfigDict]:
    """Returns a config by name: prompts on a frozen ViT, and networks from scratch."""
    out = {"vpt_deep, ViT of width 48": digits.get_config("vpt_deep")}
    for model, by in (("vit", "8"), ("cnn", "8"), ("cnn", "1"), ("resnet18", "8")):
        config = msvp.get_config(f"data=digits,model={model}")
        narrower(config, by)
        config.train.batch_size = 32
        out[f"msvp, {model}" + (f" / {by}" if by != "1" else "")] = config
    return out


def main() -> None:
    """Measures, prints, and writes where --out says."""
    parser = argparse.ArgumentParser(description="Seeds at once beside one after the other.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--only", default="", help="cases whose name begins so")
    parser.add_argument("--out", type=Path, help="JSON file; Markdown goes beside it")
    options = parser.parse_args()
    chosen = {n: c for n, c in cases().items() if n.startswith(options.only)}
    record = benchmark(chosen, options.seeds, options.turns)
    text = report(record)
    print(text, flush=True)
    if options.out:
        measure.save(options.out, record, text)


def benchmark(chosen: dict[str, ConfigDict], seeds: list[int], turns: int) -> dict[str, Any]:
    """Returns conditions and a row a case and number of seeds."""
    record = measure.conditions(PACKAGES) | {"benchmark": "together", "rows": []}
    for name, config in chosen.items():
        for count in seeds:
            record["rows"].append({"case": name, "seeds": count} | compare(config, count, turns))
    return record


def compare(config: ConfigDict, count: int, turns: int) -> dict[str, float]:
    """Returns seconds of compiling and milliseconds of one step of one run, both ways."""
    experiments = []
    for seed in range(count):
        single = config.copy_and_resolve_references()
        single.seed = seed
        experiments.append(prepare(single))
    first = experiments[0]
    batch = put_batch(image_loader(first, "train").batch(0), first.mesh)
    group = put_batch(next(together.stacked(experiments)), first.mesh)
    begin = time.perf_counter()
    alone = program.training_step(first).lower(first.state, first.frozen, batch).compile()
    middle = time.perf_counter()
    states, frozen, at_once = together.compiled(experiments, group)
    compiling = {"compile_alone": middle - begin, "compile_together": time.perf_counter() - middle}

    def turn(step, state, *arguments):
        """Takes steps; returns the state and seconds of one. The first is not timed."""
        state, numbers = step(state, *arguments)
        jax.block_until_ready(numbers)
        start = time.perf_counter()
        for _ in range(STRETCH):
            state, numbers = step(state, *arguments)
        jax.block_until_ready(numbers)
        return state, (time.perf_counter() - start) / STRETCH

    state, times = first.state, {"alone": [], "together": []}
    for _ in range(turns):
        state, seconds = turn(alone, state, first.frozen, batch)
        times["alone"].append(seconds)
        states, seconds = turn(at_once, states, frozen, group)
        times["together"].append(seconds / count)
    pairs = zip(times["alone"], times["together"], strict=True)
    return compiling | {
        "ms_alone": 1e3 * statistics.median(times["alone"]),
        "ms_together": 1e3 * statistics.median(times["together"]),
        "ratio": statistics.median(a / b for a, b in pairs),
        "ratio_shortest": min(times["alone"]) / min(times["together"]),
    }


def report(record: dict[str, Any]) -> str:
    """Returns the record as Markdown."""
    header = ["network", "seeds", "runs/h alone", "runs/h together", "together / alone"]
    header += ["... shortest", "compile alone (s)", "compile together (s)"]
    lines = [
        [
            r["case"],
            str(r["seeds"]),
            f"{3.6e6 / STEPS / r['ms_alone']:.0f}",
            f"{3.6e6 / STEPS / r['ms_together']:.0f}",
            f"{r['ratio']:.2f}",
            f"{r['ratio_shortest']:.2f}",
            f"{r['compile_alone']:.1f}",
            f"{r['compile_together']:.1f}",
        ]
        for r in record["rows"]
    ]
    title = measure.heading("Seeds at once beside one after the other", record)
    note = f"Runs of {STEPS} steps without compiling; above 1, together is faster."
    return f"{title}\n\n{note}\n\n{table(header, lines, 'lr')}"


if __name__ == "__main__":
    main()
