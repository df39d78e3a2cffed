"""What SA2VP costs beside its formulas written out as published: work and memory.

    python -m benchmarks.sa2vp                                    # ViT-B/16, inter_dim 16, batch 4
    python -m benchmarks.sa2vp --backbone swin --batch 2 --out swin.json

Nothing is run: the compiler is asked, so no weights are needed and other programs do not matter.
Work is counted before a device's own rewriting. Dropout is off where a row says so; evaluation has
none. "written out" is `tests.helpers.oracles.PlainSA2VP`: the same function, with a full pass of
each stream for each image, and separate projections.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import floors, measure
from tests.helpers.oracles import PlainSA2VP
from vpjax.backbones.swin import Swin
from vpjax.backbones.vit import ViT
from vpjax.core.table import table
from vpjax.methods.sa2vp import SA2VP
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, merge, partition
from vpjax.nn.context import EVALUATION, Context
from vpjax.train.losses import softmax

PUBLISHED = {"vit": 87.19, "swin": 74.75}  # GFLOP an image forward, of the published code
INTER_DIM = {"vit": 16, "swin": 8}
CLASSES = 100
PIXELS = 224
PACKAGES = ("jax", "jaxlib", "flax")
HEADER = ("step", "dropout", "who", "GFLOP/image", "floor", "of published", "temporary MB/image")


def main() -> None:
    """Asks the compiler, prints, and writes where --out says."""
    parser = argparse.ArgumentParser(description="SA2VP beside its formulas written out.")
    parser.add_argument("--backbone", choices=sorted(PUBLISHED), default="vit")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--out", type=Path, help="JSON file; Markdown goes beside it")
    options = parser.parse_args()
    if options.batch < 1:
        parser.error(f"--batch is {options.batch}; give 1 or more")
    record = benchmark(options.backbone, options.batch)
    text = report(record)
    print(text, flush=True)
    if options.out:
        measure.save(options.out, record, text)


def benchmark(backbone: str, batch: int, **sizes: Any) -> dict[str, Any]:
    """Return conditions and one row a step and method; `sizes` replace the backbone's own."""
    record = measure.conditions(PACKAGES) | {"benchmark": "sa2vp", "rows": []}
    record |= {"backbone": backbone, "batch": batch, "inter_dim": INTER_DIM[backbone]}
    cases = [("eval", 0.0, PlainSA2VP), ("eval", 0.0, SA2VP)]
    cases += [("train", 0.0, PlainSA2VP), ("train", 0.0, SA2VP), ("train", 0.1, SA2VP)]
    for step, dropout, cls in cases:
        parts = build(backbone, cls, dropout, **sizes)
        row = {"step": step, "dropout": dropout, "method": cls.__name__}
        row |= cost(parts, batch, train=step == "train")
        ours = build(backbone, SA2VP, dropout, **sizes)
        least = floors.of(ours, batch, train=step == "train")
        record["rows"].append(row | {"floor_flops": least and least.flops})
    return record


def build(backbone: str, cls: type[SA2VP], dropout: float, **sizes: Any) -> ModelParts:
    """Return shapes of a model; a Swin drops paths where a ViT drops numbers."""

    def make():
        rngs = nnx.Rngs(0)
        if backbone == "swin":
            body = Swin("B", PIXELS, drop_path=2 * dropout, rngs=rngs, **sizes)
        else:
            body = ViT("B/16", PIXELS, dropout=dropout, rngs=rngs, **sizes)
        options = {"inter_dim": INTER_DIM[backbone], "dropout": dropout}
        return Model(body, cls(body, CLASSES, rngs=rngs, **options))

    return partition(nnx.eval_shape(make))


def cost(parts: ModelParts, batch: int, train: bool) -> dict[str, Any]:
    """Return work an image and the memory a compiled step sets aside."""
    images = jax.ShapeDtypeStruct((batch, PIXELS, PIXELS, 3), jnp.float32)
    ctx = Context(key=jax.random.key(0)) if train else EVALUATION

    def loss(trainable, frozen, images):
        model = merge(parts.graph, trainable, {}, frozen)
        labels = jnp.zeros(batch, jnp.int32)
        return model.method.loss(model(images, ctx), labels, softmax, ctx).mean()

    call = jax.jit(jax.grad(loss) if train else loss)
    with measure.precision("float32"):
        lowered = call.lower(parts.trainable, parts.frozen, images)
        flops = lowered.cost_analysis()["flops"] / batch
        return {"flops_per_image": flops} | measure.compiled_bytes(lowered.compile())


def report(record: dict[str, Any]) -> str:
    """Return the record for people."""
    published, rows = 1e9 * PUBLISHED[record["backbone"]], []
    for row in record["rows"]:
        share = f"{row['flops_per_image'] / published:.3f}" if row["step"] == "eval" else "-"
        temporary, floor = row["temporary_bytes"], row["floor_flops"]
        rows.append(
            (
                row["step"],
                f"{row['dropout']:g}",
                "ours" if row["method"] == "SA2VP" else "written out",
                f"{row['flops_per_image'] / 1e9:.2f}",
                f"{floor / 1e9:.2f}" if floor else "-",
                share,
                measure.megabytes(temporary and temporary // record["batch"]),
            )
        )
    names = {"vit": "ViT-B/16", "swin": "Swin-B"}
    sizes = f"{names[record['backbone']]}, {PIXELS} pixels, inter_dim {record['inter_dim']}, "
    sizes += f"batch {record['batch']}, float32"
    return "\n\n".join([measure.heading("SA2VP", record), sizes, table(HEADER, rows, "lllr")])


if __name__ == "__main__":
    main()
