"""Cases of ViT-B/4: Google weights carried to smaller patches, three strategies, whole runs.

Strategies are P (prompts, layers frozen), F (no prompts, all trained) and P+F. Weights that come
from the Google file beside a case are read by the library's own loader and compared.
"""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs import vpt_cifar
from tests.golden.runner import Comparison, NotUnderstood
from tests.golden.vit_b4_model import (
    build,
    draw,
    filled,
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
from vpjax.runs import fit
from vpjax.train import sharding
from vpjax.train.evaluate import evaluate, make_eval_step
from vpjax.train.optim import Plan, make_optimiser
from vpjax.train.step import init_state, make_train_step
from vpjax.weights.load import fit_positions, load
from vpjax.weights.resample import matrix, resize_patches

ADAPTED = {"atol": 1e-4, "rtol": 1e-3}
RULES = {"bicubic_aa": "bicubic", "bilinear": "bilinear"}


def compare(meta: dict, arrays: dict, folder: Path) -> Iterator[Comparison]:
    """Yields ours beside what was recorded."""
    kinds = {
        "adapt": compare_resizes,
        "forward": compare_outputs,
        "train_loop": compare_training,
        "full_size": compare_full_size,
    }
    if meta["kind"] not in kinds:
        raise NotUnderstood(f"kind {meta['kind']}")
    yield from kinds[meta["kind"]](meta, arrays, folder)


def compare_resizes(meta: dict, arrays: dict, folder: Path) -> Iterator[Comparison]:
    """The two resizes alone."""
    kernel, positions = arrays["in/kernel_oihw"].transpose(2, 3, 1, 0), arrays["in/pos_embed"][0]
    grid, patch = (meta["to_grid"],) * 2, (meta["to_patch"],) * 2
    for theirs, ours in RULES.items():
        row = matrix(len(kernel), patch[0], ours)
        recorded = arrays[f"out/resize_matrix_{theirs}"]
        yield Comparison(f"matrix {ours}", np.kron(row, row), recorded, **ADAPTED)
        recorded = arrays[f"out/kernel_{theirs}"].transpose(2, 3, 1, 0)
        carried = resize_patches(kernel, patch, ours)
        yield Comparison(f"kernel {ours}", carried, recorded, **ADAPTED)
        carried, _ = fit_positions(positions, grid, folder, ours)
        yield Comparison(f"positions {ours}", carried, arrays[f"out/pos_{theirs}"][0], **ADAPTED)


def compare_outputs(meta: dict, arrays: dict, folder: Path) -> Iterator[Comparison]:
    """Loaded weights, logits, loss, gradients, what trains, and tokens in between."""
    model, parts = build(meta)
    values = gather(arrays, "param/", model)
    yield from compare_loaded(meta, values, model, folder)
    parts = filled(parts, values)
    recorded = gather(arrays, "grad/", model)
    same_set(recorded, parts)
    outputs = {"atol": meta["tolerance"]["out_atol"], "rtol": meta["tolerance"]["out_rtol"]}
    (loss, out), grads = run(parts, pixels(arrays["in/x"]), arrays["in/label"])
    yield Comparison("loss", loss, arrays["loss"], **outputs)
    for name in ("logits", "features"):
        yield Comparison(name, out[name], arrays[f"out/{name}"], **outputs)
    for name, value in recorded.items():
        atol = 2e-3 * np.abs(value).max() + 1e-6
        yield Comparison(f"grad {name}", grads[name], value, atol)
    seen = the_long_way(parts, pixels(arrays["in/x"][:1]))
    for name in ("patch_tokens0", "block0_in0", "block0_out0", "block1_in0", "encoder_out0"):
        yield Comparison(name, seen[name], arrays[f"out/{name}"], **outputs)


def compare_training(meta: dict, arrays: dict, folder: Path) -> Iterator[Comparison]:
    """A run by the library's own steps, optimiser of the recipe, averages and evaluation."""
    model, parts = build(meta)
    values = gather(arrays, "param/", model)
    yield from compare_loaded(meta, values, model, folder)
    parts = filled(parts, values)
    size, order = meta["batch_size"], arrays["in/train_order"]
    plan = Plan(-(-order.shape[1] // size) * meta["epochs"], -(-order.shape[1] // size), size)
    config = vpt_cifar.get_config()
    for key, theirs in {"lr": "lr", "weight_decay": "weight_decay", "min_lr": "eta_min"}.items():
        yield Comparison(key, config.optim[key], meta[theirs], 0.0)
    optimiser, rate = make_optimiser(config.optim, parts.trainable, plan)
    recorded = arrays["out64/lr_used_per_step"]
    yield Comparison("rates", rate(np.arange(plan.steps)), recorded, 0.0, 1e-6)

    mesh, prepare = sharding.make_mesh(1), lambda x, key: x
    state = init_state(parts.trainable, parts.stats, optimiser, seed=0)
    train_step = make_train_step(parts.graph, optimiser, prepare, plan.steps)
    eval_step = make_eval_step(parts.graph, prepare)
    train = (pixels(arrays["in/train_x"]), arrays["in/train_label"])
    test = (pixels(arrays["in/test_x"]), arrays["in/test_label"])
    limit = meta["tolerance"]["metric_rtol"]
    for epoch, shuffled in enumerate(order):
        numbers = []
        for batch in batches(*train, shuffled, size):
            state, more = train_step(state, parts.frozen, batch)
            numbers.append(more)
        weights = {"trainable": state.trainable, "stats": state.stats}
        tested = batches(*test, np.arange(len(test[1])), size)
        found = {"train": fit.mean(numbers, int(state.step))}
        found["val"], _ = evaluate(eval_step, weights, parts.frozen, tested, mesh, batch_loss=True)
        for split, key in (("train", "loss"), ("val", "batch_loss")):
            name = f"Loss/{split}_loss"
            ours, theirs = found[split][key], arrays[f"out64/{name}"][epoch]
            yield Comparison(f"{name} {epoch}", ours, theirs, 0.0, limit)
            name = f"Acc/{split}_acc"
            ours, theirs = found[split]["accuracy"], arrays[f"out64/{name}"][epoch]
            yield Comparison(f"{name} {epoch}", ours, theirs, 0.0, 1e-5)
    limits = {"atol": meta["tolerance"]["param_atol"], "rtol": meta["tolerance"]["param_rtol"]}
    after = gather(arrays, "out/after/", model)
    same_set(after, parts)
    for name, value in after.items():
        # The gradient of a key's bias is zero but for rounding, which Adam makes whole steps of.
        loose = name.endswith("key/bias")
        allowed = {"atol": meta["lr"] * plan.steps} if loose else limits
        yield Comparison(f"after {name}", state.trainable[name], value, **allowed)


def compare_full_size(meta: dict, arrays: dict, folder: Path) -> Iterator[Comparison]:
    """The real size; parameters are drawn by the recipe of the fixtures."""
    model, parts = build(meta)
    drawn = draw(model, meta)
    for name, value in drawn.items():
        yield Comparison(f"drawn {name}", value.ravel()[:4], arrays[f"param_head/{name}"], 0.0)
    ours = {name: translate(name, value, model) for name, value in drawn.items()}
    learnt = {name: ours[name] for name in drawn if f"gradnorm/{name}" in arrays}
    same_set({n for found in learnt.values() for n in found}, parts)
    count = lambda part: sum(v.size for v in part.values())  # noqa: E731
    yield Comparison("trainable count", count(parts.trainable), meta["n_trainable"], 0.0)
    whole = count(parts.trainable) + count(parts.frozen)
    yield Comparison("count", whole, meta["n_parameters"], 0.0)
    parts = filled(parts, {n: v for found in ours.values() for n, v in found.items()})
    tolerance = meta["tolerance"]
    outputs = {"atol": tolerance["out_atol"], "rtol": tolerance["out_rtol"]}
    (loss, out), grads = run(parts, pixels(arrays["in/x"]), arrays["in/label"])
    yield Comparison("loss", loss, arrays["loss"], **outputs)
    for name in ("logits", "features"):
        yield Comparison(name, out[name], arrays[f"out/{name}"], **outputs)
    for name, found in learnt.items():
        slope = np.concatenate([original(n, grads[n]) for n in found])
        norm, limit = arrays[f"gradnorm/{name}"], tolerance["gradnorm_rtol"]
        yield Comparison(f"norm {name}", np.linalg.norm(slope), norm, 0.0, limit)
        first, typical = arrays[f"grad_head/{name}"], norm / np.sqrt(slope.size)
        yield Comparison(f"grad {name}", slope[: len(first)], first, limit * typical, limit)


def compare_loaded(meta: dict, recorded: dict, model: Model, folder: Path) -> Iterator[Comparison]:
    """The backbone as the library's own loader carries it over."""
    expected = params.flatten(nnx.state(model.backbone))
    path, grid = str(folder / meta["google_npz"]), model.backbone.grid
    for name, value in load(path, expected, grid, resample="bicubic").values.items():
        limits = ADAPTED if name in ("pos_embed", "patch_embed/kernel") else {"atol": 0.0}
        yield Comparison(f"loaded {name}", value, recorded[f"backbone/{name}"], **limits)


def run(parts: ModelParts, images: jax.Array, labels: np.ndarray) -> tuple:
    """Returns ((loss, outputs), gradients)."""

    @jax.jit
    def go(trainable, frozen):
        def loss_fn(trainable):
            model = merge(parts.graph, trainable, parts.stats, frozen)
            out = model(images)
            return model.method.loss(out, jnp.asarray(labels), EVALUATION).mean(), out

        return jax.value_and_grad(loss_fn, has_aux=True)(trainable)

    return go(parts.trainable, parts.frozen)


def the_long_way(parts: ModelParts, images: jax.Array) -> dict[str, jax.Array]:
    """Returns the tokens of one image with the prompts in the sequence, as the original does it."""

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
    """Yields consecutive slices of an order, the last padded, as the library's loader does."""
    images = np.asarray(images)
    for first in range(0, len(order), size):
        taken = order[first : first + size]
        rows = np.concatenate([taken, np.zeros(size - len(taken), taken.dtype)])
        mask = np.arange(size) < len(taken)
        yield {"image": images[rows], "label": labels[rows].astype(np.int32), "mask": mask}
