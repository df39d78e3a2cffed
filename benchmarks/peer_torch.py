"""Our steps beside a plain PyTorch ViT with deep prompts, in one process.

    python -m benchmarks.peer_torch
    python -m benchmarks.peer_torch --size Ti --batch 32 --forms eager_fp32,compiled_fp32

Both sides get the same uint8 images, weights and optimiser (SGD with momentum on prompts and head).
The peer (`benchmarks/torch_vpt.py`) runs eagerly and compiled, in float32 and under bfloat16
autocast; ours is the library's own training step. That both give the same logits is checked before
anything is timed.

The sides take turns of a few steps, so that a machine that slows down slows all. A turn begins with
a step that is not timed.
"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # both share one GPU
# Waiting threads of one side must not hold up the other, nor wait in vain for a core in use.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F
from flax import nnx

from benchmarks import measure
from benchmarks.torch_vpt import Peer, load
from vpjax.attention import resolve
from vpjax.backbones.vit import ViT
from vpjax.errors import UserError, unknown
from vpjax.methods.vpt import VPT
from vpjax.model import Model, put_together, take_apart
from vpjax.train.log import table
from vpjax.train.step import init_state, make_train_step

FORMS = ("eager_fp32", "compiled_fp32", "eager_bf16", "compiled_bf16")
# In the order they run: what needs little memory first, as JAX's highest count never falls.
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
TURN = 5  # steps timed at a time
WARMUP = 2  # steps before the first turn
TOLERANCE = 1e-3  # of logits, in float32
RATE, MOMENTUM = 1e-3, 0.9
CLASSES = 100
PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch")
HEADER = ("step", "dtype", "who", "images/s", "ms/step [min .. max]")
HEADER += ("ours / this", "... shortest", "peak MB")


class Task(NamedTuple):
    """What both sides do."""

    variant: str = "B/16"  # of the ViT
    image_size: int = 224  # pixels
    num_tokens: int = 50  # prompts a layer
    batch: int = 8  # images a step
    attention: str = "auto"  # ours: auto, xla or cudnn


class Data(NamedTuple):
    """One batch, and numbers by our names for every parameter."""

    images: np.ndarray  # uint8 B H W 3
    labels: np.ndarray  # int32 B
    weights: dict[str, np.ndarray]


class Side(NamedTuple):
    """One side of a race."""

    who: str  # "ours (xla)", "eager", "compiled"
    call: Callable[[], Any]  # one step; returns when its work is done


def main(argv: Sequence[str]) -> None:
    """Measures what the command line asks for, prints it, and writes it where --out says."""
    parser = argparse.ArgumentParser(description="Our steps beside plain PyTorch.")
    parser.add_argument("--size", default="B", help="of a ViT with 16-pixel patches: Ti S B L H")
    parser.add_argument("--image-size", type=int, default=224, help="pixels")
    parser.add_argument("--num-tokens", type=int, default=50, help="prompts a layer")
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--steps", type=int, default=20, help="steps timed")
    parser.add_argument("--attention", default="auto", help="ours: auto, xla or cudnn")
    parser.add_argument("--forms", default=",".join(FORMS), help="of the peer, comma-separated")
    parser.add_argument("--out", type=Path, help="JSON file; Markdown goes beside it")
    given = parser.parse_args(argv)
    variant = f"{given.size}/16"
    task = Task(variant, given.image_size, given.num_tokens, given.batch, given.attention)
    record = benchmark(task, given.steps, given.forms.split(","))
    text = report(record)
    print(text, flush=True)
    if given.out:
        measure.save(given.out, record, text)


def benchmark(task: Task, steps: int, forms: Sequence[str]) -> dict[str, Any]:
    """Returns conditions and one row a step, dtype and side, ready for JSON.

    Raises: UserError for an unknown form, or if the frameworks compute on different devices;
        RuntimeError if their logits differ.
    """
    for form in forms:
        if form not in FORMS:
            raise unknown("form", form, FORMS)
    on_gpu = torch.cuda.is_available()
    if on_gpu != (jax.default_backend() == "gpu"):
        raise UserError(
            f"PyTorch {'sees' if on_gpu else 'does not see'} a GPU; JAX runs on "
            f"{jax.default_backend()}. Install both for the same device, or set JAX_PLATFORMS=cpu "
            "and CUDA_VISIBLE_DEVICES= for a CPU."
        )
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32, on both sides
    data = make_data(task)
    peer = make_peer(task, data)
    record = measure.conditions(PACKAGES) | {"benchmark": "peer_torch", "task": task._asdict()}
    record |= {"logits_differ": difference(task, data, peer), "rows": []}
    print(agreement(record), flush=True)
    if not record["logits_differ"] <= TOLERANCE:
        raise RuntimeError(f"logits differ by {record['logits_differ']}: not the same function")
    for short, dtype in DTYPES.items():
        kinds = [form.partition("_")[0] for form in FORMS if form in forms and short in form]
        for train in (False, True) if kinds else ():
            sides = [our_side(task, data, dtype, train=train)]
            sides += [peer_side(peer, data, kind, dtype, train=train) for kind in kinds]
            head = {"step": "train" if train else "inference", "dtype": dtype}
            record["rows"] += [head | row for row in race(sides, task.batch, steps)]
            del sides  # their memory must not count for the next
            torch.compiler.reset()
            gc.collect()
    return record


def make_model(task: Task, dtype: str) -> tuple[Model, str]:
    """Returns our model, shapes only, and the attention it uses."""

    def make(attention):
        rngs = nnx.Rngs(0)
        backbone = ViT(task.variant, task.image_size, attention=attention, rngs=rngs)
        return Model(backbone, VPT(backbone, CLASSES, num_tokens=task.num_tokens, rngs=rngs))

    head_dim = nnx.eval_shape(lambda: make("xla")).backbone.head_dim
    attention = resolve(task.attention, jnp.dtype(dtype), head_dim)
    return nnx.eval_shape(lambda: make(attention)), attention


def make_data(task: Task) -> Data:
    """Returns random images, labels and weights."""
    rng = np.random.default_rng(0)
    shape = (task.batch, task.image_size, task.image_size, 3)
    parts = take_apart(make_model(task._replace(attention="xla"), "float32")[0])
    values = {}
    for name, like in sorted((n, v) for part in parts[1:] for n, v in part.items()):
        # None is constant, so that a weight copied to the wrong place shows.
        noise = 0.02 * rng.standard_normal(like.shape, np.float32)
        values[name] = noise + (1 if name.endswith("scale") else 0)
    return Data(
        images=rng.integers(0, 256, shape, np.uint8),
        labels=rng.integers(0, CLASSES, task.batch, np.int32),
        weights=values,
    )


def make_peer(task: Task, data: Data) -> Peer:
    """Returns the peer with our numbers, on the device."""
    like = make_model(task._replace(attention="xla"), "float32")[0]
    peer = Peer(like.backbone, task.num_tokens, CLASSES)
    load(peer, data.weights)
    return peer.to(device())


def difference(task: Task, data: Data, peer: Peer) -> float:
    """Returns the largest difference of a logit, ours without fused attention, in float32."""
    task = task._replace(attention="xla")
    ours = our_side(task, data, "float32", train=False).call()
    theirs = peer_side(peer, data, "eager", "float32", train=False).call()
    return float(np.abs(np.asarray(ours) - theirs.cpu().numpy()).max())


def our_side(task: Task, data: Data, dtype: str, *, train: bool) -> Side:
    """Returns our step, compiled. As in training, frozen matrices are stored in `dtype`."""
    model, attention = make_model(task, dtype)
    graph, *parts = take_apart(model)
    trainable, stats, frozen = (
        {name: jnp.asarray(data.weights[name]) for name in part} for part in parts
    )
    frozen = {n: v.astype(dtype) if n.endswith("kernel") else v for n, v in frozen.items()}
    images = jnp.asarray(data.images)

    def prepare(images, key):
        return (images.astype(jnp.float32) / 127.5 - 1).astype(dtype)

    if not train:

        def infer(trainable, stats, frozen, images):
            return put_together(graph, trainable, stats, frozen)(prepare(images, None))["logits"]

        with measure.precision(dtype):
            step = jax.jit(infer).lower(trainable, stats, frozen, images).compile()
        call = lambda: jax.block_until_ready(step(trainable, stats, frozen, images))  # noqa: E731
        return Side(f"ours ({attention})", call)

    optimiser = optax.sgd(RATE, momentum=MOMENTUM)
    state = init_state(trainable, stats, optimiser, seed=0)
    batch = {
        "image": images,
        "label": jnp.asarray(data.labels),
        "mask": jnp.ones(len(images), bool),
    }
    with measure.precision(dtype):
        step = make_train_step(graph, optimiser, prepare, steps=1000)
        step = step.lower(state, frozen, batch).compile()

    def call():
        nonlocal state
        state, numbers = jax.block_until_ready(step(state, frozen, batch))
        return state, numbers

    return Side(f"ours ({attention})", call)


def peer_side(peer: Peer, data: Data, kind: str, dtype: str, *, train: bool) -> Side:
    """Returns the peer's step. Compiling happens in its first call."""
    images = torch.tensor(data.images).permute(0, 3, 1, 2).contiguous().to(device())
    labels = torch.tensor(data.labels, dtype=torch.int64, device=device())
    network = torch.compile(peer) if kind == "compiled" else peer
    cast = torch.autocast(device(), torch.bfloat16, enabled=dtype == "bfloat16")
    learned = [p for p in peer.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(learned, RATE, momentum=MOMENTUM)

    def infer():
        with torch.no_grad(), cast:
            return wait(network(images))

    def step():
        optimiser.zero_grad()
        with cast:
            loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimiser.step()
        return wait(loss)

    return Side(kind, step if train else infer)


def device() -> str:
    """Returns where PyTorch computes."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def wait(result: torch.Tensor) -> torch.Tensor:
    """Returns `result` when the device has done all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result


def race(sides: Sequence[Side], batch: int, steps: int) -> list[dict[str, Any]]:
    """Times all sides in turns; a row a side. One that cannot be compiled says so in its row."""
    rows, times = [{"who": side.who} for side in sides], [[] for _ in sides]
    for side, row in zip(sides, rows, strict=True):
        try:
            row |= warm_up(side)
        except Exception as error:  # compiling fails in many ways: no C++ compiler, no Triton ...
            if side.who != "compiled":
                raise
            row["failed"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    for start in range(0, steps, TURN):
        for side, row, mine in zip(sides, rows, times, strict=True):
            if "failed" not in row:
                side.call()
                mine += measure.seconds(side.call, min(TURN, steps - start))
    for row, mine in zip(rows, times, strict=True):
        if mine:
            row |= measure.speed(mine, batch)
            row["ours_over_this"] = row["ms_median"] / rows[0]["ms_median"]
            row["ours_over_this_shortest"] = row["ms_min"] / rows[0]["ms_min"]
    return rows


def warm_up(side: Side) -> dict[str, Any]:
    """Makes the first calls, and returns the most memory one of them held.

    On a GPU: all that the framework holds. On a CPU: what the process grew by.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        earlier = measure.highest_bytes()
        measure.seconds(side.call, 1 + WARMUP)
        highest = measure.highest_bytes()
        if side.who in ("eager", "compiled"):
            return {"peak_bytes": torch.cuda.max_memory_allocated()}
        return {"peak_bytes": highest, "at_most": highest == earlier}
    if side.who == "compiled":
        side.call()  # compiles, in memory of its own
    before = measure.process_bytes(reset=True)
    measure.seconds(side.call, 1 + WARMUP)
    after = measure.process_bytes()
    return {"peak_bytes": None if before is None or after is None else after - before}


def agreement(record: dict[str, Any]) -> str:
    """Returns the line about correctness."""
    return (
        f"Same weights, float32: logits differ by at most {record['logits_differ']:.1e} "
        f"(allowed: {TOLERANCE:.0e})."
    )


def report(record: dict[str, Any]) -> str:
    """Returns the record for people."""
    task = record["task"]
    about = (
        f"ViT-{task['variant']}, {task['image_size']} pixels, {task['num_tokens']} deep prompts, "
        f"batch {task['batch']}."
    )
    rows = [cells(row) for row in record["rows"]]
    title = measure.heading("Beside plain PyTorch", record)
    return "\n\n".join([title, about, agreement(record), table(HEADER, rows, align="lllr")])


def cells(row: dict[str, Any]) -> list[str]:
    """Returns a row of the table."""
    head = [row["step"], row["dtype"], row["who"]]
    if "failed" in row:
        return [*head, "-", row["failed"], "-", "-", "-"]
    peak = ("<= " if row.get("at_most") else "") + measure.megabytes(row["peak_bytes"])
    ratios = [f"{row[name]:.2f}" for name in ("ours_over_this", "ours_over_this_shortest")]
    return [*head, f"{row['images_per_second']:.1f}", measure.ms(row), *ratios, peak]


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
