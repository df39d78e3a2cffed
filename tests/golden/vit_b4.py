"""Cases of ViT-B/4: Google weights carried to smaller patches, three strategies, whole runs.

Strategies are P (prompts, layers frozen), F (no prompts, all trained) and P+F. Weights that come
from the Google file beside a case are read by the library's own loader and compared.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.golden import training
from tests.golden.comparison import GRADIENT, Comparison, gradient, numbers, outputs, scaled
from tests.golden.record import NotUnderstood, Record, under
from tests.golden.vit_b4_model import (
    build,
    draw,
    gather,
    original,
    pixels,
    same_set,
    translate,
)
from vpjax.core import params
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, merge
from vpjax.nn.context import EVALUATION
from vpjax.weights.load import load
from vpjax.weights.positions import fit_positions
from vpjax.weights.resample import matrix, resize_patches

ADAPTED = {"atol": 1e-4, "rtol": 1e-3}
RULES = {"bicubic_aa": "bicubic", "bilinear": "bilinear"}
# What the library does in one way only.
EXPECTED = {
    "mode": "eval",
    "loss": "mean cross-entropy",
    "token_order": "class, prompts, patches",
}


def compare(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield what a kind of case compares."""
    kinds = {
        "adapt": compare_resizes,
        "forward": compare_outputs,
        "train_loop": compare_training,
        "full_size": compare_full_size,
    }
    if meta["kind"] not in kinds:
        raise NotUnderstood(f"kind {meta['kind']}")
    for key, value in EXPECTED.items():
        meta.expect(key, value)
    meta.ignore("adapt", "params")
    if meta["kind"] != "full_size":
        meta.ignore("seed")
    yield from kinds[meta["kind"]](meta, arrays, folder)


def compare_resizes(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield the two resizes, and that they start from the Google file."""
    kernel, positions = arrays["in/kernel_oihw"].transpose(2, 3, 1, 0), arrays["in/pos_embed"][0]
    limits = outputs(meta)
    with np.load(folder / meta["google_npz"]) as google:
        whole = google["embedding/kernel"][..., : kernel.shape[-1]]
        grid = google["Transformer/posembed_input/pos_embedding"][0]
    yield Comparison("kernel of the file", whole, kernel, 0.0)
    yield Comparison("positions of the file", grid, positions, 0.0)
    yield Comparison("patch of the file", len(kernel), meta["from_patch"], 0.0)
    yield Comparison("grid of the file", len(positions) - 1, meta["from_grid"] ** 2, 0.0)
    grid, patch = (meta["to_grid"],) * 2, (meta["to_patch"],) * 2
    for theirs, ours in RULES.items():
        row = matrix(len(kernel), patch[0], ours)
        recorded = arrays[f"out/resize_matrix_{theirs}"]
        yield scaled(f"matrix {ours}", np.kron(row, row), recorded, **limits)
        recorded = arrays[f"out/kernel_{theirs}"].transpose(2, 3, 1, 0)
        carried = resize_patches(kernel, patch, ours)
        yield scaled(f"kernel {ours}", carried, recorded, **limits)
        carried, _ = fit_positions(positions, grid, folder, ours)
        yield scaled(f"positions {ours}", carried, arrays[f"out/pos_{theirs}"][0], **limits)


def compare_outputs(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield loaded weights, logits, loss, gradients, and tokens inside; check what trains."""
    model, parts = build(meta)
    values = gather(arrays, "param/", model)
    yield from compare_loaded(meta, values, model, folder)
    parts = training.filled(parts, values)
    check_trainable(meta, arrays, model, parts)
    recorded = gather(arrays, "grad/", model)
    same_set(recorded, parts)
    limits = outputs(meta)
    share, floor = numbers(GRADIENT, meta["tolerance"]["grad"], "tolerance of gradients")
    (loss, out), grads = run(parts, pixels(arrays["in/x"]), arrays["in/label"])
    yield scaled("loss", loss, arrays["loss"], **limits)
    for name in ("logits", "features"):
        yield scaled(name, out[name], arrays[f"out/{name}"], **limits)
    for name, value in recorded.items():
        yield gradient(f"grad {name}", grads[name], value, share, floor)
    seen = the_long_way(parts, pixels(arrays["in/x"][:1]))
    for name in ("patch_tokens0", "block0_in0", "block0_out0", "block1_in0", "encoder_out0"):
        yield scaled(name, seen[name], arrays[f"out/{name}"], **limits)


def compare_training(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield the learning rates, every epoch's averages, and the parameters after a run."""
    meta.ignore("stdout", "scalar_order")  # the recorded numbers once more
    model, parts = build(meta)
    values = gather(arrays, "param/", model)
    yield from compare_loaded(meta, values, model, folder)
    parts = training.filled(parts, values)
    check_trainable(meta, arrays, model, parts)
    size, order = meta["batch_size"], arrays["in/train_order"]
    if len(order) != meta["epochs"]:
        raise NotUnderstood(f"{meta['epochs']} epochs, but {len(order)} orders of the images")
    per_epoch = -(-order.shape[1] // size)
    plan = training.Plan(per_epoch * meta["epochs"], per_epoch, size)
    optimizer, _ = training.make_optimizer(settings(meta), parts.trainable, plan)
    rates = training.schedule(settings(meta), plan)[:-1]
    yield Comparison("rates", rates, arrays["out64/lr_used_per_step"], 0.0, 1e-6)

    state = training.start(parts, optimizer)
    train_step = training.make_step(parts, optimizer, plan.steps)
    evaluate = training.make_evaluation(parts)
    train = (pixels(arrays["in/train_x"]), arrays["in/train_label"])
    test = (pixels(arrays["in/test_x"]), arrays["in/test_label"])
    tolerance = meta["tolerance"]
    limit = tolerance["metric_rtol"]
    for epoch, shuffled in enumerate(order):
        found = []
        for batch in batches(*train, shuffled, size):
            state, more = train_step(state, batch)
            found.append(more)
        averages = {"train": training.averaged(found, int(state.step))}
        averages["val"] = evaluate(state, batches(*test, np.arange(len(test[1])), size))
        for split, key in (("train", "loss"), ("val", "batch_loss")):
            name = f"Loss/{split}_loss"
            ours, theirs = averages[split][key], arrays[f"out64/{name}"][epoch]
            yield Comparison(f"{name} {epoch}", ours, theirs, 0.0, limit)
            name = f"Acc/{split}_acc"
            ours, theirs = averages[split]["accuracy"], arrays[f"out64/{name}"][epoch]
            yield Comparison(f"{name} {epoch}", ours, theirs, 0.0, 1e-5)
    limits = {"atol": tolerance["param_atol"], "rtol": tolerance["param_rtol"]}
    after = gather(arrays, "out/after/", model)
    same_set(after, parts)
    for name, value in after.items():
        # The gradient of a key's bias is zero but for rounding, which Adam makes whole steps of.
        loose = name.endswith("key/bias")
        allowed = {"atol": meta["lr"] * plan.steps} if loose else limits
        yield scaled(f"after {name}", state.trainable[name], value, **allowed)


def settings(meta: Record) -> Any:
    """Return the optimizer's settings: Adam with L2, a cosine by epochs, values of the case."""
    return training.settings(
        name="adam",
        lr=meta["lr"],
        weight_decay=meta["weight_decay"],
        min_lr=meta["eta_min"],
        schedule="cosine",
        schedule_by_epoch=True,
    )


def compare_full_size(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield outputs and digests of gradients of a model whose parameters follow the recipe."""
    model, parts = build(meta)
    drawn = draw(model, meta)
    for name, value in under(arrays, "param_head/").items():
        if name not in drawn:
            raise NotUnderstood(f"parameter {name}")
        yield Comparison(f"drawn {name}", drawn[name].ravel()[:4], value, 0.0)
    ours = {name: translate(name, value, model) for name, value in drawn.items()}
    learnt = {name: ours[name] for name in under(arrays, "gradnorm/")}
    same_set({n for found in learnt.values() for n in found}, parts)
    count = lambda part: sum(v.size for v in part.values())  # noqa: E731
    yield Comparison("trainable count", count(parts.trainable), meta["n_trainable"], 0.0)
    whole = count(parts.trainable) + count(parts.frozen)
    yield Comparison("count", whole, meta["n_parameters"], 0.0)
    parts = training.filled(parts, {n: v for found in ours.values() for n, v in found.items()})
    limits, limit = outputs(meta), meta["tolerance"]["gradnorm_rtol"]
    (loss, out), grads = run(parts, pixels(arrays["in/x"]), arrays["in/label"])
    yield scaled("loss", loss, arrays["loss"], **limits)
    for name in ("logits", "features"):
        yield scaled(name, out[name], arrays[f"out/{name}"], **limits)
    for name, found in learnt.items():
        slope = np.concatenate([original(n, grads[n]) for n in found])
        norm = arrays[f"gradnorm/{name}"]
        yield Comparison(f"norm {name}", np.linalg.norm(slope), norm, 0.0, limit)
        first, typical = arrays[f"grad_head/{name}"], norm / np.sqrt(slope.size)
        yield Comparison(f"grad {name}", slope[: len(first)], first, limit * typical, limit)


def check_trainable(meta: Record, arrays: Record, model: Model, parts: ModelParts) -> None:
    """Raise an AssertionError unless the parameters train that did in the recording."""
    same_set(
        {n for t in meta["trainable"] for n in translate(t, arrays[f"param/{t}"], model)}, parts
    )


def compare_loaded(
    meta: Record, recorded: dict, model: Model, folder: Path
) -> Iterator[Comparison]:
    """Yield the backbone as the library's own loader carries it over."""
    expected = params.flatten(nnx.state(model.backbone))
    path, grid = str(folder / meta["google_npz"]), model.backbone.grid
    with np.load(path) as google:
        source = meta["config"]["source_patch"], meta["config"]["source_grid"]
        yield Comparison("source patch", len(google["embedding/kernel"]), source[0], 0.0)
        cells = google["Transformer/posembed_input/pos_embedding"].shape[1] - 1
        yield Comparison("source grid", cells, source[1] ** 2, 0.0)
    for name, value in load(path, expected, grid, resample="bicubic").values.items():
        limits = ADAPTED if name in ("pos_embed", "patch_embed/kernel") else {"atol": 0.0}
        yield scaled(f"loaded {name}", value, recorded[f"backbone/{name}"], **limits)


def run(parts: ModelParts, images: jax.Array, labels: np.ndarray) -> tuple:
    """Return ((loss, outputs), gradients)."""

    @jax.jit
    def go(trainable, frozen):
        def loss_fn(trainable):
            model = merge(parts.graph, trainable, parts.stats, frozen)
            out = model(images)
            return training.losses(model, out, jnp.asarray(labels), EVALUATION).mean(), out

        return jax.value_and_grad(loss_fn, has_aux=True)(trainable)

    return go(parts.trainable, parts.frozen)


def the_long_way(parts: ModelParts, images: jax.Array) -> dict[str, jax.Array]:
    """Return the tokens of one image with the prompts in the sequence, as the original does it."""

    @jax.jit
    def watch(*values):
        model = merge(parts.graph, *values)
        backbone, seen = model.backbone, {}
        seen["patch_tokens0"] = backbone.patchify(images, EVALUATION).reshape(-1, backbone.dim)
        tokens = backbone.embed(images, EVALUATION)
        for i, layer in enumerate(backbone.layers):
            if hasattr(model.method, "prompts"):
                prompt = model.method.prompts[str(i)][...]
                tokens = tokens.overwrite(prompt, at=1) if i else tokens.insert(prompt, at=1)
            seen[f"block{i}_in0"] = tokens.x[0]
            tokens = layer(tokens, EVALUATION.at(i))
            seen[f"block{i}_out0"] = tokens.x[0]
        seen["encoder_out0"] = backbone.norm(tokens.x)[0]
        return seen

    return watch(*parts[1:])


def batches(images, labels, order: np.ndarray, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield consecutive slices of an order, the last padded, as the library's loader does."""
    images = np.asarray(images)
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        yield training.batch(images[rows], labels[rows], size)
