"""An epoch through a frozen CLIP beside one on its features: what the feature cache saves.

    python -m benchmarks.feature_cache                            # B/32, MoP and a linear probe
    python -m benchmarks.feature_cache --variant L/14 --out cache.json

Weights, images and labels are random numbers: the work does not depend on them. Images lie decoded
in memory, so the backbone's side is flattered. A few of its steps are timed and an epoch follows
from the median; on features whole epochs run, loader included.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks import measure
from vpjax.backbones.clip import CLIP
from vpjax.core.table import table
from vpjax.data import preset
from vpjax.data.features import FeatureLoader, Rows
from vpjax.data.records import Record
from vpjax.data.source import Source
from vpjax.methods.finetune import Linear
from vpjax.methods.mop import MoP
from vpjax.models.model import Model
from vpjax.models.partition import partition
from vpjax.runs.features import HeadModel
from vpjax.train.step import State, init_state, make_train_step

METHODS = {"mop.MoP": MoP, "finetune.Linear": Linear}
HEADER = ("method", "epoch through CLIP", "epoch on features", "times faster", "step")
PACKAGES = ("jax", "jaxlib", "flax")


def main() -> None:
    """Measures, prints, and writes where --out says."""
    parser = argparse.ArgumentParser(description="Training through CLIP and on its features.")
    parser.add_argument("--variant", default="B/32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--images", type=int, default=1024, help="of an epoch")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--steps", type=int, default=3, help="through CLIP, that are timed")
    parser.add_argument("--out", type=Path, help="JSON file; Markdown goes beside it")
    options = vars(parser.parse_args())
    out = options.pop("out")
    record = benchmark(**options)
    text = report(record)
    print(text, flush=True)
    if out:
        measure.save(out, record, text)


def benchmark(
    variant: str, batch: int, images: int, classes: int, steps: int, **sizes: Any
) -> dict[str, Any]:
    """Return conditions and a row a method; `sizes` replace the variant's own."""
    record = measure.conditions(PACKAGES) | {"benchmark": "feature_cache", "rows": []}
    record |= {"variant": variant, "batch": batch, "images": images, "classes": classes}
    body = CLIP(variant, **sizes, rngs=nnx.Rngs(0))
    with measure.precision("float32"):
        for name, cls in METHODS.items():
            method = cls(body, classes, rngs=nnx.Rngs(1))
            through = epoch_through(body, method, batch, images, classes, steps)
            on = epoch_on_features(body, method, batch, images, classes)
            record["rows"].append({"method": name, "through": through, "on_features": on})
    return record


def epoch_through(
    body: CLIP, method: Any, batch: int, images: int, classes: int, steps: int
) -> float:
    """Return the seconds of an epoch of images, from the median of `steps` steps."""
    size = body.image_size
    to_input = lambda batch, key: preset("clip").device(batch["image"], size, False)  # noqa: E731
    call, state, frozen = ready(Model(body, method), to_input)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (batch, *size, 3), np.uint8)
    labels = rng.integers(0, classes, batch).astype(np.int32)
    given = {"image": pixels, "label": labels, "mask": np.ones(batch, bool)}
    times = []
    for _ in range(steps + 1):  # the first compiles
        begin = time.perf_counter()
        state, numbers = call(state, frozen, given)
        jax.block_until_ready((state, numbers))
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:]) * images / batch


def epoch_on_features(
    body: CLIP, method: Any, batch: int, images: int, classes: int, epochs: int = 3
) -> float:
    """Return the median seconds of `epochs` epochs of rows, as the loader gives them."""
    call, state, frozen = ready(HeadModel(body, method), lambda batch, key: batch["features"])
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, images).astype(np.int32)
    rows = Rows(rng.standard_normal((images, body.dim), np.float32), labels)
    source = Source("random", [str(c) for c in range(classes)], _Unread(images), (None, None, 3))
    loader = FeatureLoader(source, rows, batch)
    state, _ = call(state, frozen, loader.batch(0))  # compiles
    batches, times = loader.batches(), []
    for _ in range(epochs):
        begin = time.perf_counter()
        for _ in range(images // batch):
            state, numbers = call(state, frozen, next(batches))
        jax.block_until_ready((state, numbers))
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


class _Unread:
    """Records that nobody reads: only their number counts."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        raise NotImplementedError


def ready(model: Model, to_input: Callable) -> tuple[Callable, State, dict]:
    """Return a model's training step, state and frozen part."""
    parts = partition(model)
    optimiser = optax.adam(5e-4)
    step = make_train_step(parts.graph, optimiser, to_input, 1000)
    frozen = {n: jnp.copy(v) for n, v in parts.frozen.items()}
    return step, init_state(parts.trainable, parts.stats, optimiser, 0), frozen


def report(record: dict[str, Any]) -> str:
    """Return the record for people."""
    steps = record["images"] // record["batch"]
    rows = [
        (
            row["method"],
            f"{row['through']:.1f} s",
            f"{row['on_features']:.2f} s",
            f"{row['through'] / row['on_features']:.0f}",
            f"{1e3 * row['on_features'] / steps:.1f} ms",
        )
        for row in record["rows"]
    ]
    sizes = f"CLIP {record['variant']}, {record['images']} images an epoch in batches of "
    sizes += f"{record['batch']}, {record['classes']} classes, float32"
    return "\n\n".join([measure.heading("Feature cache", record), sizes, table(HEADER, rows)])


if __name__ == "__main__":
    main()
