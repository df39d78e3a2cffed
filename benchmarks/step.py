"""How fast a recipe's own training and evaluation steps are, and what they need.

    python -m benchmarks.step --config configs/vpt_cifar224.py
    python -m benchmarks.step --config configs/vpt_cifar224.py --config.remat=full --batch 8,32

The steps are those `main.py` compiles, on random weights and random images, so that neither need
be on disk. `--nosynthetic` takes the recipe's images instead, and times its loader too.

Work is counted by XLA in the program as it is before a device's own rewriting, with attention
written out, so the count does not depend on the device or on the attention implementation. (Fused
kernels of a GPU are black boxes in the compiled program, and would count as nothing.) A share of
the device's peak counts the floor instead: what the method must do (`benchmarks.floors`), however
much more a step does.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from benchmarks import floors, measure
from vpjax.cli import flags, overrides, recipes
from vpjax.core import allocator
from vpjax.core.errors import UserError
from vpjax.core.size import pair
from vpjax.core.table import table
from vpjax.data import Loader, open_source, preset
from vpjax.models import factory
from vpjax.models.partition import ModelParts
from vpjax.runs import config as configs
from vpjax.runs import experiment
from vpjax.runs.inputs import image_to_input
from vpjax.train import optim, sharding
from vpjax.train.evaluate import make_eval_step
from vpjax.train.schedules import Plan
from vpjax.train.step import State, init_state, make_train_step

HOME = Path(__file__).resolve().parents[1]
WARMUP = 3  # steps before the clock starts
PACKAGES = ("jax", "jaxlib", "flax", "optax")
HEADER = ("step", "batch", "images/s", "ms/step [min .. max]", "GFLOP/image", "floor")
HEADER += ("of floor peak", "temporary MB", "arguments MB", "device MB")

Batch = dict[str, np.ndarray]


class Recipe(NamedTuple):
    """What a config stands for here."""

    config: ConfigDict
    preset: str
    image_size: tuple[int, int]  # pixels
    attention: str
    mesh: Mesh
    parts: ModelParts
    written_out: tuple  # the graph with attention "xla", whose work XLA can count


def main(argv: Sequence[str]) -> None:
    """Measures what the command line asks for, prints it, and writes it where --out says."""
    allocator.keep()
    parser = flags.Parser("benchmarks.step", allow_abbrev=False)
    flags.add_recipe(parser, default="digits")
    parser.add_argument("--batch", type=flags.words, default=["8"], help="images a step, on all")
    parser.add_argument("--classes", type=int, default=100, help="classes of the head")
    parser.add_argument("--steps", type=int, default=20, help="steps timed")
    text = "the recipe's images, not random ones"
    parser.add_argument("--nosynthetic", dest="synthetic", action="store_false", help=text)
    parser.add_argument("--out", type=Path, help="JSON file; Markdown goes beside it")
    given, config = read(parser, argv[1:])
    try:
        batches = [int(b) for b in given.batch]
    except ValueError as e:
        raise UserError(str(e)) from e
    if not batches or min(*batches, given.steps) < 1:
        raise UserError("--batch and --steps must be above 0")
    record = benchmark(config, batches, given.classes, given.steps, given.synthetic)
    text = report(record)
    print(text, flush=True)
    if given.out:
        measure.save(given.out, record, text)


def read(parser: flags.Parser, words: Sequence[str]) -> tuple[argparse.Namespace, ConfigDict]:
    """Return the values of a script's flags, and the config of its --config, with keys changed."""
    changes, rest = overrides.take(words)
    given = parser.parse_args(rest)
    return given, overrides.apply(recipes.load(given.config or given.recipe), changes)


def benchmark(
    config: ConfigDict,
    batches: Sequence[int],
    num_classes: int = 100,
    steps: int = 20,
    synthetic: bool = True,
) -> dict[str, Any]:
    """Return conditions and one row a step and batch size, ready for JSON."""
    recipe = prepare(config, num_classes)
    record = measure.conditions(PACKAGES) | {
        "benchmark": "step",
        "config": configs.flat(recipe.config),
        "num_classes": num_classes,
        "attention": recipe.attention,
        "parameters": {
            name: sum(v.size for v in getattr(recipe.parts, name).values())
            for name in ("trainable", "frozen")
        },
        "peak_flops": measure.peak_flops(config.dtype) * recipe.mesh.size,
        "rows": [],
    }
    for size in sorted(batches):  # what needs little memory first, as a device's peak never falls
        if size < 1 or size % recipe.mesh.size:  # padding would be timed as images
            raise UserError(
                f"--batch is {size}; expected a multiple of the {recipe.mesh.size} devices"
            )
        if synthetic:
            batch = random_batch(recipe, size, num_classes)
        else:
            loading = recipe_batches(recipe, size)
            batch = next(loading)
            record["rows"].append(time_input(loading, size, steps))
        batch = sharding.put_batch(batch, recipe.mesh)
        for kind, make in (("eval", make_eval), ("train", make_train)):
            row = time_step(recipe, make, batch, steps)
            floor = floors.of(recipe.parts, size, train=kind == "train", dtype=config.dtype)
            row["floor_flops"] = floor and floor.flops
            rate = row["images_per_second"]
            row["of_floor_peak"] = floors.share(floor, rate, record["peak_flops"])
            record["rows"].append({"step": kind} | row)
    return record


def prepare(config: ConfigDict, num_classes: int) -> Recipe:
    """Builds the recipe's model on random weights.

    Raises: UserError for whatever does not fit.
    """
    experiment.check(config)
    name = experiment.preset_name(config)  # may follow from the weights, so before they go
    config = configs.merged(config, {"backbone": {"weights": "", "head": "new"}})
    attention = experiment.resolve_attention(config)
    specs = experiment.backbone_spec(config), experiment.method_spec(config)
    options = {"seed": config.seed, "dtype": config.dtype, "trainable": config.train.trainable}
    options["match_reference_code"] = config.match_reference_code
    build = lambda form: factory.build(*specs, num_classes, attention=form, **options)[0]  # noqa: E731
    parts = build(attention)
    graph = parts.graph if attention == "xla" else build("xla").graph
    return Recipe(
        config=config,
        preset=name,
        image_size=pair(specs[0].completed()["image_size"]),
        attention=attention,
        mesh=sharding.make_mesh(config.mesh.data),
        parts=parts,
        written_out=graph,
    )


def random_batch(recipe: Recipe, size: int, num_classes: int) -> Batch:
    """Return random pixels and labels, in the form the recipe's loader gives."""
    rng = np.random.default_rng(0)
    shape = (size, *recipe.image_size, 3)
    return {
        "image": rng.integers(0, 256, shape).astype(preset(recipe.preset).host_dtype()),
        "label": rng.integers(0, num_classes, size, np.int32),
        "mask": np.ones(size, bool),
    }


def recipe_batches(recipe: Recipe, size: int) -> Iterator[Batch]:
    """Yields the recipe's training batches; their labels must fit the head.

    Raises: UserError if the data is not there.
    """
    data = recipe.config.data
    source = open_source(data.name, data.train, data.dir or None)
    loader = Loader(source, size, preset(recipe.preset), recipe.image_size, recipe.config.seed)
    return loader.batches()


def time_input(loading: Iterator[Batch], size: int, steps: int) -> dict[str, Any]:
    """Times the loader alone: a rate below the training step's is the bottleneck."""
    measure.seconds(lambda: next(loading), WARMUP)
    return {"step": "input"} | measure.speed(measure.seconds(lambda: next(loading), steps), size)


def make_train(recipe: Recipe, graph: tuple, size: int) -> tuple[Callable, tuple]:
    """Return the jitted training step and its arguments, without the batch."""
    config, parts = recipe.config, recipe.parts
    # A plan long enough that rates stay at the start of a warm-up, and losses finite.
    plan = Plan(steps=100_000, steps_per_epoch=10_000, batch_size=size)
    optimiser, _ = optim.make_optimizer(
        optim.Settings(**config.optim), parts.trainable, plan, config.match_reference_code
    )
    to_input = input_of(recipe, train=True)
    state = init_state(parts.trainable, parts.stats, optimiser, config.seed)
    state, frozen = sharding.replicate((state, parts.frozen), recipe.mesh)
    forms = {"remat": config.remat, "segments": config.remat_segments}
    return make_train_step(graph, optimiser, to_input, plan.steps, **forms), (state, frozen)


def make_eval(recipe: Recipe, graph: tuple, size: int) -> tuple[Callable, tuple]:
    """Return the jitted evaluation step and its arguments, without the batch."""
    weights = sharding.replicate(recipe.parts[1:], recipe.mesh)
    return make_eval_step(graph, input_of(recipe, train=False)), weights


def time_step(recipe: Recipe, make: Callable, batch: dict, steps: int) -> dict[str, Any]:
    """Compiles one step and times it."""
    size = len(batch["label"])
    with measure.precision(recipe.config.dtype):
        step, arguments = make(recipe, recipe.parts.graph, size)
        begin = time.perf_counter()
        lowered = step.lower(*arguments, batch)
        traced = time.perf_counter()
        compiled = lowered.compile()
        done = time.perf_counter()
        if recipe.attention != "xla":
            lowered = make(recipe, recipe.written_out, size)[0].lower(*arguments, batch)
    work = (lowered.cost_analysis() or {}).get("flops")

    def call():
        nonlocal arguments
        out = jax.block_until_ready(compiled(*arguments, batch))
        if isinstance(arguments[0], State):  # donated: the next step starts from the new one
            arguments = (out[0], *arguments[1:])

    measure.seconds(call, WARMUP)
    row = measure.speed(measure.seconds(call, steps), size)
    row |= {"flops_per_image": work / size, "highest_bytes": measure.highest_bytes()}
    row |= {"trace_seconds": traced - begin, "compile_seconds": done - traced}
    return row | measure.compiled_bytes(compiled)


def report(record: dict[str, Any]) -> str:
    """Return the record for people: conditions, the table, what compiling took."""
    config, counts = record["config"], record["parameters"]
    lines = [
        measure.heading("The recipe's own steps", record),
        f"{config['backbone.name']} {config.get('backbone.variant', '')}, {config['method.name']}, "
        f"{config['dtype']}, attention {record['attention']}, remat {config['remat']}; "
        f"{counts['trainable']:,} parameters train, {counts['frozen']:,} are frozen.",
        f"Peak: {record['peak_flops'] / 1e12:.3f} TFLOP/s, a large matrix product in "
        f"{config['dtype']}.",
        table(HEADER, [cells(row) for row in record["rows"]]),
    ]
    made = [
        f"{row['step']} {row['batch']}: {row['trace_seconds']:.1f} + {row['compile_seconds']:.1f} s"
        for row in record["rows"]
        if "trace_seconds" in row
    ]
    lines.append(f"Tracing + compiling took: {'; '.join(made)}.")
    return "\n\n".join(lines)


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row of the table."""
    work, floor = row.get("flops_per_image"), row.get("floor_flops")
    return [
        row["step"],
        str(row["batch"]),
        f"{row['images_per_second']:.1f}",
        measure.ms(row),
        f"{work / 1e9:.3g}" if work else "-",
        f"{floor / 1e9:.3g}" if floor else "-",
        floors.percent(row.get("of_floor_peak")),
        measure.megabytes(row.get("temporary_bytes")),
        measure.megabytes(row.get("argument_bytes")),
        measure.megabytes(row.get("highest_bytes")),
    ]


def input_of(recipe: Recipe, train: bool) -> Callable:
    """Return what turns a batch into the model's input."""
    config = recipe.config
    channels = config.backbone.get("channels", 3)
    return image_to_input(recipe.preset, recipe.image_size, channels, config.dtype, train)


if __name__ == "__main__":
    measure.command(main, sys.argv)
