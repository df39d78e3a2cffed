"""Whether images come as fast as a recipe trains: images a second, stage by stage.

    python -m benchmarks.input --config configs/vpt_fgvc.py:cub
    python -m benchmarks.input --config configs/vpt_cifar224.py --images small
    python -m benchmarks.input --config configs/vpt_fgvc.py:cub --images recipe --train_rate 5200

    file --read--> bytes --decode--> pixels --resize, crop--> uint8 --transfer--> device: augment

The stages on the host are timed in one thread, the best of 5; the loader, which does all of them,
in as many as training uses: first from files, then from memory where it keeps images there. The
training step is the recipe's own, on random weights; --train_rate gives a rate that was measured
elsewhere instead. Images are made up, "photos" (JPEG, 375x500) or "small" (PNG, 32x32), or those
of the recipe.
"""

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from benchmarks import measure, step
from vpjax.cli import flags
from vpjax.core.errors import UserError
from vpjax.core.table import table
from vpjax.data import Loader, images, open_source, preset
from vpjax.data.files import Files
from vpjax.data.records import Record
from vpjax.data.source import Source
from vpjax.runs import config as configs
from vpjax.train import sharding

KINDS = ("photos", "small", "recipe")
CLASSES = 100
DISTINCT = 16  # pictures that are made up; more would only take longer to make
SINGLE = 64  # images that one thread is timed on
HEADER = ("stage", "threads", "images/s", "ms/image")
MEMORY = "loader, from memory"


def main(argv: Sequence[str]) -> None:
    """Measures what the command line asks for, prints it, and writes it where --out says."""
    parser = flags.Parser("benchmarks.input", allow_abbrev=False)
    flags.add_recipe(parser, default="vpt_cifar224")
    parser.add_argument("--images", choices=KINDS, default="photos", help="what is read")
    parser.add_argument("--count", type=int, default=256, help="images made up")
    parser.add_argument("--batch", type=int, default=32, help="images a step")
    parser.add_argument("--steps", type=int, default=3, help="training steps timed")
    parser.add_argument("--train_rate", type=float, help="images/s to compare with")
    parser.add_argument("--out", type=Path, help="JSON file; Markdown goes beside it")
    given, config = step.read(parser, argv[1:])
    if min(given.count, given.batch, given.steps) < 1:
        raise UserError("--count, --batch and --steps must be above 0")
    with tempfile.TemporaryDirectory() as folder:
        source = make_source(config, given.images, given.count, Path(folder))
        record = benchmark(config, source, given.batch, given.steps, given.train_rate)
    record["images"] = given.images
    text = report(record)
    print(text, flush=True)
    if given.out:
        measure.save(given.out, record, text)


def make_source(config: ConfigDict, kind: str, count: int, folder: Path) -> Source:
    """Return made-up images, or the recipe's; photos lie in `folder`.

    Raises: UserError if the recipe's data is not there.
    """
    if kind == "recipe":
        data = config.data
        return open_source(data.name, data.train, data.dir or None, data.classes)
    labels = [i % CLASSES for i in range(count)]
    names = [str(i) for i in range(CLASSES)]
    if kind == "small":
        pictures = [picture(i, 32, 32, "PNG") for i in range(DISTINCT)]
        records = [Record(pictures[i % DISTINCT], label) for i, label in enumerate(labels)]
        return Source("made-up small images", names, Listed(records), (32, 32, 3))
    for i in range(DISTINCT):
        (folder / f"{i}.jpg").write_bytes(picture(i, 375, 500, "JPEG"))
    files = [(f"{i % DISTINCT}.jpg", label) for i, label in enumerate(labels)]
    return Source("made-up photos", names, Files(folder, files), (None, None, 3))


def picture(seed: int, height: int, width: int, kind: str) -> bytes:
    """Return an encoded image with about as much detail as a photo."""
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    smooth = Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(smooth) + rng.normal(0, 6, (height, width, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, kind, quality=90)
    return buffer.getvalue()


class Listed(list):
    """Records that lie in a list."""

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        return [self[i] for i in indices]


def benchmark(
    config: ConfigDict, source: Source, batch: int, steps: int = 3, train_rate: float | None = None
) -> dict[str, Any]:
    """Return conditions, a row a stage, and the training rate, ready for JSON."""
    recipe = step.prepare(config, source.num_classes)
    record = measure.conditions(step.PACKAGES) | {
        "benchmark": "input",
        "config": configs.flat(recipe.config),
        "source": source.name,
        "preset": recipe.preset,
        "image_size": recipe.image_size,
        "batch": batch,
    }
    rows = [*host_stages(recipe, source), *loading(recipe, source, batch)]
    on_host = next(make_loader(recipe, source, batch).batches())
    record["rows"] = [*rows, *device_stages(recipe, on_host)]
    record["measured"] = train_rate is None
    if train_rate is None:
        row = step.time_step(
            recipe, step.make_train, sharding.put_batch(on_host, recipe.mesh), steps
        )
        train_rate = row["images_per_second"]
    return record | {"train_rate": train_rate}


def host_stages(recipe: step.Recipe, source: Source) -> Iterator[dict[str, Any]]:
    """Times what the host does with an image, in one thread."""
    chosen, size = preset(recipe.preset), recipe.image_size
    rng, channels = np.random.default_rng(0), source.image_shape[2]
    order = rng.permutation(len(source))[:SINGLE].tolist()
    records: list[Record] = []
    pixels: list[np.ndarray] = []

    def read():
        records[:] = source.records.__getitems__(order)

    def decode():
        encoded = (r.image for r in records)
        pixels[:] = [
            x if isinstance(x, np.ndarray) else images.decode(x, channels) for x in encoded
        ]

    def resize():
        for x in pixels:
            chosen.host(x, size, True, rng)

    yield timed("read", 1, len(order), read)
    yield timed("decode", 1, len(order), decode)
    if chosen.on_host(source.image_shape, size):
        yield timed("resize, crop", 1, len(order), resize)


def make_loader(recipe: step.Recipe, source: Source, batch: int) -> Loader:
    """Return the loader that training would use."""
    return Loader(source, batch, preset(recipe.preset), recipe.image_size, recipe.config.seed)


def loading(recipe: step.Recipe, source: Source, batch: int) -> Iterator[dict[str, Any]]:
    """Times the loader over one epoch from files and, if it keeps images, one from memory."""
    threads = os.cpu_count() or 1
    begin = time.perf_counter()
    loader = make_loader(recipe, source, batch)  # decodes images of one size at once
    if loader.kept:
        yield row("loader, into memory", threads, len(source), time.perf_counter() - begin)
    else:
        yield epoch(loader, "loader, from files", threads)
    if loader.kept is not None:
        yield epoch(loader, MEMORY, 1)


def epoch(loader: Loader, stage: str, threads: int) -> dict[str, Any]:
    """Times one epoch of batches."""
    steps = -(-len(loader.source) // loader.batch_size)
    batches = loader.batches()
    begin = time.perf_counter()
    for _ in range(steps):
        next(batches)
    seconds = time.perf_counter() - begin
    batches.close()
    return row(stage, threads, steps * loader.batch_size, seconds)


def device_stages(recipe: step.Recipe, batch: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Times copying a batch to the devices, and what is done to it there."""
    augment, key = jax.jit(step.input_of(recipe, train=True)), jax.random.key(0)
    count = len(batch["label"])
    yield timed(
        "transfer", 1, count, lambda: jax.block_until_ready(sharding.put_batch(batch, recipe.mesh))
    )
    placed = {"image": sharding.put_batch(batch, recipe.mesh)["image"]}
    yield timed(
        "augment, normalise (device)",
        None,
        count,
        lambda: jax.block_until_ready(augment(placed, key)),
    )


def timed(
    stage: str, threads: int | None, count: int, call: Callable[[], Any], repeats: int = 5
) -> dict[str, Any]:
    """Times a call on `count` images: the best of several, which other programs hardly disturb."""
    return row(stage, threads, count, min(measure.seconds(call, repeats)))


def row(stage: str, threads: int | None, count: int, seconds: float) -> dict[str, Any]:
    """Return a row of the table."""
    rates = {"images_per_second": count / seconds, "ms_per_image": 1e3 * seconds / count}
    return {"stage": stage, "threads": threads} | rates


def report(record: dict[str, Any]) -> str:
    """Return the record for people: conditions, the table, the verdict."""
    config, (height, width) = record["config"], record["image_size"]
    rows = [
        [
            r["stage"],
            "-" if r["threads"] is None else str(r["threads"]),
            f"{r['images_per_second']:,.0f}",
            f"{r['ms_per_image']:.3f}",
        ]
        for r in record["rows"]
    ]
    return "\n\n".join(
        (
            measure.heading("Input, stage by stage", record),
            f"{record['source']} to {height}x{width}, preset {record['preset']}, batches of "
            f"{record['batch']}; {config['backbone.name']} {config.get('backbone.variant', '')}, "
            f"{config['method.name']}, {config['dtype']}.",
            table(HEADER, rows),
            verdict(record),
        )
    )


def verdict(record: dict[str, Any]) -> str:
    """Says by how much the input exceeds the training rate, or falls short of it."""
    rate = record["train_rate"]
    source = "measured here" if record["measured"] else "given"
    lines = [f"Training takes {rate:,.1f} images/s ({source})."]
    by_stage = {r["stage"]: r for r in record["rows"]}
    for r in record["rows"]:
        if not r["stage"].startswith(("loader", "transfer")):
            continue
        have = r["images_per_second"]
        times = have / rate
        text = f"- {r['stage']}: {times:,.{0 if times > 100 else 1}f} times that"
        if times < 1:
            text = f"- {r['stage']}: falls short by {1 - times:.0%}"
            if r["stage"] in ("loader, from files", "loader, into memory"):
                text += f"; {threads_needed(record, rate)} cores like these would do"
                text += ", or it matters in the first epoch only" if MEMORY in by_stage else ""
        lines.append(text + ".")
    return "\n".join(lines)


def threads_needed(record: dict[str, Any], rate: float) -> int:
    """Return how many threads read, decode and resize `rate` images a second."""
    stages = ("read", "decode", "resize, crop")
    busy = sum(r["ms_per_image"] for r in record["rows"] if r["stage"] in stages)
    return int(np.ceil(rate * busy / 1e3))


if __name__ == "__main__":
    measure.command(main, sys.argv)
