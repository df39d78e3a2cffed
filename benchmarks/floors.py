"""The least work of every method on a ViT, and how near the compiled steps come to it.

    python -m benchmarks.floors                                     # the table, B/16 and L/16
    python -m benchmarks.floors --models B/16 --only "VPT|full"     # part of it
    python -m benchmarks.floors --out benchmarks/results/floors_cpu.json

The formulas are in `floors_work` (products of a layer) and `floors_methods` (what each method does
with the layers). Steps are compiled from shapes: nothing is run, and other programs do not matter.
Those of the first model are; of the others, programs are counted as they enter the compiler.
Inference is images to logits; training is the library's own step, with SGD and momentum. Everything
random acts as a method's defaults have it. In float32, as a CPU widens shorter formats.

Benchmarks that time a step use `of` and `share`: only floors count as work done.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx

from benchmarks import floors_compiled, measure
from benchmarks.floors_methods import of
from benchmarks.floors_work import Floor
from vpjax.backbones.clip import CLIP
from vpjax.backbones.vit import ViT, parse
from vpjax.core.table import table
from vpjax.methods import (
    bottleneck,
    compacter,
    convpass,
    cvpt,
    dora,
    e2vpt,
    fact,
    finetune,
    gate_vpt,
    ia3,
    layer_norm,
    lora,
    repadapter,
    sa2vp,
    side,
    spt,
    ssf,
    vera,
    vfpt,
    vit_b4,
    vpt,
    vpt_input,
)
from vpjax.methods.adapter import Adapter
from vpjax.methods.mop import MoP
from vpjax.methods.msvp import MSVP, MSVPFrozen
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, partition

__all__ = ["Floor", "of", "percent", "share"]

CLASSES = 100
DTYPES = ("bfloat16", "float32")
BATCH = 64  # images of a step: prompts that are computed once a batch hardly count
ALLOWED = 1.03  # times the floor
PACKAGES = ("jax", "jaxlib", "flax", "optax")
CLIPS = {"B/16": "B/16", "L/16": "L/14"}
STEPS = {"inference": floors_compiled.inference, "training": floors_compiled.training}
HEADER = ("model", "method", "inference GFLOP", "products", "all", "training GFLOP", "products")
HEADER += ("all", "inference MB", "training MB")


class Case(NamedTuple):
    """A row of the table."""

    name: str
    method: Callable
    options: dict[str, Any] = {}
    backbone: Callable = ViT
    variant: str = ""  # the table's unless given
    pixels: int = 224


CASES = (
    Case("linear", finetune.Linear),
    Case("partial-1", finetune.Partial, {"num_layers": 1}),
    Case("partial-4", finetune.Partial, {"num_layers": 4}),
    Case("bias", finetune.Bias),
    Case("class token", finetune.ClsToken),
    Case("full", finetune.Full),
    Case("adapter", Adapter),
    Case("side", side.Side),
    *(Case(f"VPT shallow {p}", vpt.VPT, {"num_tokens": p, "deep": False}) for p in (10, 50, 100)),
    *(Case(f"VPT deep {p}", vpt.VPT, {"num_tokens": p}) for p in (10, 50, 100)),
    Case("VPT deep 50, dropout 0.1", vpt.VPT, {"dropout": 0.1}),
    Case("input: add, deep", vpt_input.Add),
    Case("input: prepend 50 patches", vpt_input.PrependPixel),
    Case("input: pad 16 pixels", vpt_input.Pad, {"num_tokens": 16}),
    Case("input: below 5 channels", vpt_input.Below),
    Case("E2VPT 50, 5 keys", e2vpt.E2VPT, {"num_tokens": 50, "masks": True}),
    Case("VFPT 50", vfpt.VFPT, {"num_tokens": 50}),
    Case("SPT 50", spt.SPT, {"num_tokens": 50}),
    Case("Gate-VPT 50", gate_vpt.GateVPT, {"num_tokens": 50}),
    Case("CVPT 50", cvpt.CVPT, {"num_tokens": 50}),
    Case("LoRA q+v", lora.LoRA),
    Case("LoRA, all six", lora.LoRA, {"sites": "all"}),
    Case("DoRA q+v", dora.DoRA),
    Case("VeRA q+v", vera.VeRA),
    Case("IA3", ia3.IA3),
    Case("SSF", ssf.SSF),
    Case("FacT-TT", fact.TT),
    Case("FacT-TK", fact.TK),
    Case("LayerNorm", layer_norm.LayerNorm),
    Case("AdaptFormer", bottleneck.AdaptFormer),
    Case("Adapter+", bottleneck.AdapterPlus),
    Case("Houlsby", bottleneck.Houlsby),
    Case("Pfeiffer", bottleneck.Pfeiffer),
    Case("NOAH", bottleneck.NOAH),
    Case("Compacter", compacter.Compacter),
    Case("Convpass", convpass.Convpass),
    Case("RepAdapter", repadapter.RepAdapter),
    Case("SA2VP", sa2vp.SA2VP),
    Case("MSVP", MSVP),
    Case("MSVP, frozen", MSVPFrozen),
    Case("P, 32 pixels", vit_b4.Prompts, {"num_tokens": 10}, variant="B/4", pixels=32),
    Case("P+F, 32 pixels", vit_b4.PromptsFull, {"num_tokens": 10}, variant="B/4", pixels=32),
    Case("F, 32 pixels", finetune.Full, variant="B/4", pixels=32),
    Case("MoP, 32 a class", MoP, backbone=CLIP),
)


def main() -> None:
    """Compiles, prints, and writes where --out says."""
    parser = argparse.ArgumentParser(description="The least work of every method on a ViT.")
    parser.add_argument("--models", default="B/16,L/16", help="ViTs, comma-separated")
    parser.add_argument("--pixels", type=int, default=224, help="edge of the images")
    parser.add_argument("--only", default="", help="regular expression over names of methods")
    parser.add_argument("--batch", type=int, default=BATCH, help="images of a step")
    parser.add_argument("--out", type=Path, help="JSON file; Markdown goes beside it")
    given = parser.parse_args()
    if given.batch < 1:
        parser.error(f"--batch is {given.batch}; give 1 or more")
    try:
        chosen = [case for case in CASES if re.search(given.only, case.name)]
    except re.error as e:
        parser.error(f"--only {given.only!r} is not a regular expression: {e}")
    if not chosen:
        parser.error(f"--only {given.only!r} matches none of {', '.join(c.name for c in CASES)}")
    record = benchmark(given.models.split(","), chosen, given.batch, pixels=given.pixels)
    text = report(record)
    print(text, flush=True)
    if given.out:
        measure.save(given.out, record, text)


def share(floor: Floor | None, images_per_second: float, peak_flops: float) -> float | None:
    """Return the share of a device's matrix peak: only what must be done counts as done."""
    return None if floor is None else floor.flops * images_per_second / peak_flops


def percent(part: float | None) -> str:
    """Formats a share; "-" where it is not known."""
    return "-" if part is None else f"{part:.1%}"


def benchmark(
    variants: Sequence[str], cases: Sequence[Case], batch: int, **sizes: Any
) -> dict[str, Any]:
    """Return conditions and one row a model and method; `sizes` are `take`'s."""
    record = measure.conditions(PACKAGES) | {"benchmark": "floors", "batch": batch, "rows": []}
    for variant in variants:
        parse(variant)
        for case in cases:
            if not case.variant or variant == variants[0]:
                row = row_of(case, variant, batch, variant == variants[0], **sizes)
                record["rows"].append(row)
                print(*line(row), flush=True)
    return record


def row_of(
    case: Case, variant: str, batch: int, optimise: bool = True, **sizes: Any
) -> dict[str, Any]:
    """Return floors and the compiler's counts, an image; see `floors_compiled` for `optimise`."""
    parts, pixels, name = take(case, variant, **sizes)
    row = {"model": name, "method": case.name, "pixels": pixels}
    for step, compiled in STEPS.items():
        least = {d: of(parts, batch, train=step == "training", dtype=d) for d in DTYPES}
        with measure.precision("float32"):
            counted = compiled(parts, (batch, pixels, pixels, 3), optimise)
        row[step] = {"floor_flops": least["float32"].flops}
        row[step] |= {"compiled_products": counted.products / batch}
        row[step] |= {"compiled_flops": counted.total / batch}
        row[step] |= {f"floor_bytes_{d}": floor.bytes for d, floor in least.items()}
    return row


def take(case: Case, variant: str, pixels: int = 224, **sizes: Any) -> tuple[ModelParts, int, str]:
    """Return shapes of a model, the edge of its images, and its name."""
    variant, pixels = case.variant or variant, case.pixels if case.variant else pixels
    if case.backbone is CLIP:
        variant = CLIPS.get(variant, variant)
    built = case.method.input_size((pixels, pixels), case.options)

    def make():
        rngs = nnx.Rngs(0)
        body = case.backbone(variant, built, rngs=rngs, **sizes)
        return Model(body, case.method(body, CLASSES, **case.options, rngs=rngs))

    name = f"{'CLIP' if case.backbone is CLIP else 'ViT'}-{variant}"
    return partition(nnx.eval_shape(make)), pixels, name


def report(record: dict[str, Any]) -> str:
    """Return the record for people."""
    about = (
        f"The floor an image at batch {record['batch']}, {CLASSES} classes; MB are 10^6 bytes in "
        "bfloat16. Beside it what the compiled step does: its matrix products alone, and all that "
        f"the compiler counts, over the floor; {ALLOWED:.2f} are allowed."
    )
    title = measure.heading("The least work, and the compiled steps", record)
    lines = table(HEADER, [line(row) for row in record["rows"]], "llr")
    above = [f"{row['model']} {row['method']}" for row in record["rows"] if exceeds(row)]
    return "\n\n".join([title, about, lines, f"Above {ALLOWED:.2f}: {', '.join(above) or 'none'}."])


def line(row: dict[str, Any]) -> list[str]:
    """Return a row of the table."""
    cells = [row["model"], row["method"]]
    for step in STEPS:
        floor = row[step]["floor_flops"]
        cells.append(f"{floor / 1e9:.2f}")
        cells += [f"{ratio(row, step, n):.3f}" for n in ("compiled_products", "compiled_flops")]
    cells += [f"{row[step]['floor_bytes_bfloat16'] / 1e6:.1f}" for step in STEPS]
    return cells


def ratio(row: dict[str, Any], step: str, count: str) -> float:
    """Return what is counted, over the floor."""
    return row[step][count] / row[step]["floor_flops"]


def exceeds(row: dict[str, Any]) -> bool:
    """Whether a compiled step does more than is allowed."""
    return any(ratio(row, step, "compiled_flops") > ALLOWED for step in STEPS)


if __name__ == "__main__":
    measure.command(main)
