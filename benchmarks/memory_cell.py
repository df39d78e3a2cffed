"""One cell of the memory table, in a process of its own: a device's peak never falls within one.

    memory        what the compiler sets aside for one whole training step; nothing is allocated
    work          floating point operations of the step, and of a forward pass; the least an image
                  of the step (`benchmarks.floors`)
    time, peak    of real steps, where asked for
    correctness   logits and gradient of the prompts beside the plain path, on few images

The step is the library's own (`vpjax.train.step`), of VPT with a drawn head: a head of zeros would
leave prompts without a gradient in their first step.
"""

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks import floors, measure
from vpjax.backbones.vit import ViT
from vpjax.methods.vpt import VPT
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, merge, partition, shapes
from vpjax.nn.attention import resolve
from vpjax.nn.context import Context
from vpjax.train.losses import softmax
from vpjax.train.step import init_state, make_train_step

CLASSES = 100
WARMUP = 3  # steps before the clock starts
NOISE = 0.03  # spread of drawn weights
ON = "full"  # the policy of a cell with remat


class Cell(NamedTuple):
    """What is measured, and how."""

    model: str  # a ViT, such as "B/16"
    pixels: int
    deep: bool
    flash: bool = False
    remat: bool = False
    segments: int = 0  # 0: each layer is recomputed by itself
    num_tokens: int = 100  # prompts, in each layer where deep
    layers: int = 0  # 0: as many as the model has
    dtype: str = "float32"
    batch: int = 32  # images a step
    steps: int = 0  # timed; 0: compile only
    check: int = 1  # images that correctness is checked on

    @property
    def name(self) -> str:
        """What `--only` matches and progress shows."""
        text = f"{self.model} {self.pixels} px {'deep' if self.deep else 'shallow'}"
        text += f" flash={'on' if self.flash else 'off'} remat={'on' if self.remat else 'off'}"
        return text + (f" segments={self.segments}" if self.segments else "")

    @property
    def plain(self) -> "Cell":
        """The path that this one is compared with."""
        return self._replace(flash=False, remat=False, segments=0)

    @property
    def forms(self) -> dict[str, Any]:
        """Arguments of the library's step."""
        return {"remat": ON if self.remat else "none", "segments": self.segments}


def main(argv: list[str]) -> None:
    """Measures the cell given as JSON, with references kept in a folder; prints the row."""
    print(json.dumps(measure_cell(Cell(**json.loads(argv[0])), Path(argv[1]))))


def measure_cell(cell: Cell, folder: Path) -> dict[str, Any]:
    """Return a row of the table. What the device has no memory for is told, not raised."""
    row = cell._asdict() | {"name": cell.name, "attention": attention_of(cell)}
    row |= tokens(cell)
    row["floor_flops"] = floors.of(take(cell), cell.batch, train=True, dtype=cell.dtype).flops
    with measure.precision(cell.dtype):
        if not cell.flash:
            row["flops"] = work(cell)
        if cell == cell.plain:
            row["forward_flops"] = forward_work(cell)
        for part in (compile_and_run, lambda cell: compare(cell, folder)):
            try:
                row |= part(cell)
            except jax.errors.JaxRuntimeError as error:
                row["failed"] = str(error).strip().splitlines()[0][:200]
    return row


def attention_of(cell: Cell) -> str:
    """Return the implementation: with flash the device's own where it has one for this dtype."""
    if not cell.flash:
        return "xla"
    backbone = nnx.eval_shape(lambda: ViT(cell.model, cell.pixels, rngs=nnx.Rngs(0)))
    found = resolve("auto", jnp.dtype(cell.dtype), backbone.head_dim)
    return "blockwise" if found == "xla" else found


def take(cell: Cell) -> ModelParts:
    """Return the model as shapes; no number exists yet."""

    def make():
        depth = cell.layers or None
        rngs = nnx.Rngs(0)
        body = ViT(cell.model, cell.pixels, depth=depth, attention=attention_of(cell), rngs=rngs)
        options = {"num_tokens": cell.num_tokens, "deep": cell.deep, "head_init": "classes"}
        return Model(body, VPT(body, CLASSES, **options, rngs=rngs))

    parts = partition(nnx.eval_shape(make))
    return parts._replace(frozen={n: stored(cell, n, v) for n, v in parts.frozen.items()})


def stored(cell: Cell, name: str, like: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """As in training, frozen matrices are kept in the dtype they are used in."""
    dtype = cell.dtype if name.endswith("kernel") else like.dtype
    return jax.ShapeDtypeStruct(like.shape, jnp.dtype(dtype))


def tokens(cell: Cell) -> dict[str, int]:
    """Return tokens in all, and how many of them ask and how many are looked at in a layer."""
    cells = (cell.pixels // int(cell.model.partition("/")[2])) ** 2
    total = 1 + cell.num_tokens + cells
    return {
        "tokens": total,
        "queries": 1 + cells if cell.deep else total,
        "keys": total,
    }


def to_input(cell: Cell) -> Callable:
    """Return what turns a batch of uint8 images into the model's input."""
    return lambda batch, key: (batch["image"].astype(jnp.float32) / 127.5 - 1).astype(cell.dtype)


def make_step(cell: Cell, parts: ModelParts) -> tuple[Callable, tuple]:
    """Return the training step and its arguments as shapes."""
    optimiser = optax.sgd(1e-3, momentum=0.9)
    step = make_train_step(parts.graph, optimiser, to_input(cell), 1000, **cell.forms)
    state = jax.eval_shape(
        lambda t, s: init_state(t, s, optimiser, 0), parts.trainable, parts.stats
    )
    return step, (state, parts.frozen, shapes(draw_batch(cell, cell.batch)))


def draw_batch(cell: Cell, size: int) -> dict[str, np.ndarray]:
    """Return random pixels and labels."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (size, cell.pixels, cell.pixels, 3), np.uint8),
        "label": rng.integers(0, CLASSES, size, np.int32),
        "mask": np.ones(size, bool),
    }


def draw(like: dict[str, Any]) -> dict[str, jax.Array]:
    """Return numbers for names: the same on every device and for every cell of a model."""
    values = {}
    for name, v in sorted(like.items()):
        seed = [ord(c) for c in name]
        noise = NOISE * np.random.default_rng(seed).standard_normal(v.shape, np.float32)
        values[name] = jnp.asarray(noise + (1 if name.endswith("scale") else 0), v.dtype)
    return values


def work(cell: Cell) -> float:
    """Return operations of a step, counted before a device's rewriting: fused kernels and loops
    would count as nothing, or once."""
    step, arguments = make_step(cell, take(cell))
    return step.lower(*arguments).cost_analysis()["flops"]


def forward_work(cell: Cell) -> float:
    """Return operations of a forward pass on the batch of a step."""
    parts = take(cell)

    def logits(trainable, stats, frozen, images):
        images = to_input(cell)({"image": images}, None)
        return merge(parts.graph, trainable, stats, frozen)(images)["logits"]

    images = jax.ShapeDtypeStruct((cell.batch, cell.pixels, cell.pixels, 3), jnp.uint8)
    return jax.jit(logits).lower(*parts[1:], images).cost_analysis()["flops"]


def compile_and_run(cell: Cell) -> dict[str, Any]:
    """Compiles the step from shapes alone, and runs it if the cell says so."""
    parts = take(cell)
    step, arguments = make_step(cell, parts)
    begin = time.perf_counter()
    compiled = step.lower(*arguments).compile()
    row = {"compile_seconds": time.perf_counter() - begin} | measure.compiled_bytes(compiled)
    if not cell.steps:
        return row
    optimiser = optax.sgd(1e-3, momentum=0.9)
    state = init_state(draw(parts.trainable), draw(parts.stats), optimiser, 0)
    frozen, batch = draw(parts.frozen), jax.device_put(draw_batch(cell, cell.batch))

    def call():
        nonlocal state
        state, _ = jax.block_until_ready(compiled(state, frozen, batch))

    measure.seconds(call, WARMUP)
    row |= measure.speed(measure.seconds(call, cell.steps), cell.batch)
    return row | {"peak_bytes": measure.highest_bytes()}


def compare(cell: Cell, folder: Path) -> dict[str, Any]:
    """Return how far logits and the prompts' gradient are from the plain path's."""
    key = re.sub(r"\W+", "_", cell.plain.name)
    kept = folder / f"{key}.npz"
    if not kept.exists():
        np.savez(kept, **outputs(cell.plain))
    plain = dict(np.load(kept))
    mine = plain if cell == cell.plain else outputs(cell)
    differ = {n: float(np.abs(mine[n] - plain[n]).max()) for n in plain}
    size = {n: float(np.abs(plain[n]).max()) for n in plain}
    prompts = [n for n in plain if n != "logits"]
    return {
        "logits_differ": differ["logits"],
        "gradient_differs": max(differ[n] / size[n] if size[n] else np.inf for n in prompts),
        "gradient_least": min(float(np.abs(mine[n]).max()) for n in prompts),  # of all layers
    }


def outputs(cell: Cell) -> dict[str, np.ndarray]:
    """Return logits and the gradient of each layer's prompts, in training."""
    parts, batch = take(cell), jax.device_put(draw_batch(cell, cell.check))
    ctx = Context(key=jax.random.key(0))

    def loss(trainable, stats, frozen):
        model = merge(parts.graph, trainable, stats, frozen)
        out = model(to_input(cell)(batch, None), ctx, **cell.forms)
        return model.method.loss(out, batch["label"], softmax, ctx).mean(), out["logits"]

    values = [draw(part) for part in parts[1:]]
    (_, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(*values)
    found = {n: v for n, v in grads.items() if "/head/" not in n}
    return {n: np.asarray(v, np.float32) for n, v in (found | {"logits": logits}).items()}


if __name__ == "__main__":
    main(sys.argv[1:])
