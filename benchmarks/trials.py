"""Trials of a grid trained at once beside one after the other: trials an hour, frozen backbone.

    python -m benchmarks.trials                                # a small ViT, 3 minutes on a CPU
    python -m benchmarks.trials --trials 16 --out trials.json
    python -m benchmarks.trials --variant B/16 --pixels 224    # for a GPU

Trials differ in learning rate and weight decay ("rates"), or in those and their seed ("seeds").
With one seed they see the same images, so what the backbone does before anything learnt enters is
done once for all: of a linear probe, everything. Both sides take turns, a few steps each, so that
what else a machine does hits them alike. A trial is 500 steps and, one by one, a program of its own
that has to be compiled, as rates are constants in it.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import measure
from configs import base, digits
from vpjax.core.table import table
from vpjax.runs import program, together
from vpjax.runs.config import renamed
from vpjax.runs.experiment import Experiment, prepare, split_batches
from vpjax.runs.members import sibling
from vpjax.train.sharding import put_batch

STEPS = 500  # of a trial: 16 epochs of 1000 images, in batches of 32
STRETCH = 2  # timed steps of a turn
PACKAGES = ("jax", "jaxlib", "flax")
SIZE = {"dim": 128, "mlp_dim": 512, "heads": 2, "depth": 4}  # of the small ViT
METHODS = {
    "linear": ("finetune.Linear", {}),
    "VPT-shallow": ("vpt.VPT", {"deep": False, "num_tokens": 10}),
    "VPT-deep": ("vpt.VPT", {"num_tokens": 10}),
}


def main() -> None:
    """Measures, prints, and writes where --out says."""
    parser = argparse.ArgumentParser(description="Trials at once beside one after the other.")
    parser.add_argument("--trials", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--variant", default="small", help="of the ViT; small: 0.8 M parameters")
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, help="JSON file; Markdown goes beside it")
    options = parser.parse_args()
    record = benchmark(options)
    text = report(record)
    print(text, flush=True)
    if options.out:
        measure.save(options.out, record, text)


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    """Returns conditions and a row a method, kind of difference and number of trials."""
    record = measure.conditions(PACKAGES) | {"benchmark": "trials", "rows": []}
    record |= {k: getattr(options, k) for k in ("variant", "pixels", "batch", "dtype")}
    for name in METHODS:
        for differ in ("rates", "seeds"):
            for count in options.trials:
                row = {"method": name, "differ": differ, "trials": count}
                found = compare(trials(name, differ, count, options), options.turns)
                record["rows"].append(row | found)
    return record


def trials(name: str, differ: str, count: int, options: argparse.Namespace) -> list[Experiment]:
    """Returns the experiments of a grid."""
    config = digits.get_config("vpt_deep")
    small = options.variant == "small"
    config.backbone = base.backbone(
        "vit.ViT",
        variant="Ti/8" if small else options.variant,
        image_size=options.pixels,
        **SIZE if small else {},
    )
    cls, given = METHODS[name]
    config.method = renamed(config, "method", cls, given)
    config.train.update(batch_size=options.batch, steps=STEPS)
    config.features, config.dtype = "off", options.dtype
    made: list[Experiment] = []
    for k in range(count):
        single: ConfigDict = config.copy_and_resolve_references()
        single.optim.update(lr=1e-3 * (k + 1), weight_decay=1e-4 * k)
        single.seed = k if differ == "seeds" else 0
        made.append(sibling(single, made[0]) if made else first(single))
    return made


def first(config: ConfigDict) -> Experiment:
    """Returns an experiment with its images in memory."""
    experiment = prepare(config)
    split_batches(experiment, "train")
    return experiment


def compare(experiments: list[Experiment], turns: int) -> dict[str, float]:
    """Returns seconds of compiling and milliseconds of one step of one trial, both ways."""
    one = experiments[0]
    batch = put_batch(split_batches(one, "train").batch(0), one.mesh)
    group = put_batch(next(together.stacked(experiments)), one.mesh)
    begin = time.perf_counter()
    alone = program.training_step(one).lower(one.state, one.frozen, batch).compile()
    middle = time.perf_counter()
    states, frozen, at_once = together.compiled(experiments, group)
    out = {"compile_alone": middle - begin, "compile_together": time.perf_counter() - middle}

    def turn(step, state, *arguments):
        """Takes steps; returns the state and seconds of one. The first is not timed."""
        state, numbers = step(state, *arguments)
        jax.block_until_ready(numbers)
        start = time.perf_counter()
        for _ in range(STRETCH):
            state, numbers = step(state, *arguments)
        jax.block_until_ready(numbers)
        return state, (time.perf_counter() - start) / STRETCH

    # Where seeds are equal, trials share the state of step 0, which a step would overwrite.
    state = jax.tree.map(lambda x: x.copy(), one.state)
    times: dict[str, list[float]] = {"alone": [], "together": []}
    for _ in range(turns):
        state, seconds = turn(alone, state, one.frozen, batch)
        times["alone"].append(seconds)
        states, seconds = turn(at_once, states, frozen, group)
        times["together"].append(seconds / len(experiments))
    for way, found in times.items():
        out[f"ms_{way}"] = 1e3 * statistics.median(found)
        out[f"ms_{way}_min"] = 1e3 * min(found)
    return out | {"ratio": out["ms_alone_min"] / out["ms_together_min"]}


def hourly(row: dict[str, float], way: str) -> float:
    """Returns trials an hour, compiling included, at the shortest time of a step."""
    compiling = row[f"compile_{way}"] / (row["trials"] if way == "together" else 1)
    return 3600 / (STEPS * row[f"ms_{way}_min"] / 1e3 + compiling)


def report(record: dict[str, Any]) -> str:
    """Returns the record as Markdown."""
    header = ["method", "trials differ in", "trials", "ms alone", "ms together", "ratio"]
    header += ["trials/h alone", "trials/h together", "gain"]
    lines = []
    for r in record["rows"]:
        alone, at_once = hourly(r, "alone"), hourly(r, "together")
        numbers = [f"{r[f'ms_{w}']:.1f} [{r[f'ms_{w}_min']:.1f}]" for w in ("alone", "together")]
        numbers.append(f"{r['ratio']:.2f}")
        numbers += [f"{alone:.0f}", f"{at_once:.0f}", f"{at_once / alone:.2f}"]
        lines.append([r["method"], r["differ"], str(r["trials"]), *numbers])
    title = measure.heading("Trials at once beside one after the other", record)
    what = f"ViT {record['variant']} at {record['pixels']} pixels, batch {record['batch']}, "
    note = f"{what}{record['dtype']}; trials of {STEPS} steps. Times are of one step of one trial, "
    note += "median [shortest]; the ratio is of the shortest. The last three columns count "
    note += "compiling: once a trial alone, once a group together."
    return f"{title}\n\n{note}\n\n{table(header, lines, 'llr')}"


if __name__ == "__main__":
    main()
