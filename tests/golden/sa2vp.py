"""Cases of SA2VP on ViT and Swin: forward, gradients, dropout sites, training, positions.

Parameters have the names of the published code. Its copies of the backbone's projections must equal
the originals, as ours are the originals.
"""

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from configs import sa2vp_vtab
from tests.golden.runner import Comparison
from tests.golden.sa2vp_model import Masked, build, copied, gather, places, translate
from vpjax.core import params
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, merge, partition
from vpjax.nn.context import EVALUATION, Context
from vpjax.train import optim
from vpjax.weights.load import fit_positions, load


def compare(meta: dict, arrays: dict, folder: Path) -> Iterator[Comparison]:
    """Yields ours beside what was recorded."""
    if "old_grid" in meta:
        yield from compare_positions(meta, arrays, folder)
        return
    model = build(meta, any(n.startswith("mask/") for n in arrays))
    parts = partition(model)
    values = gather(model, arrays, "param/")
    yield from compare_copies(model, arrays)
    yield from compare_loaded(meta, model, values, folder)
    values = {n: jnp.asarray(v) for n, v in values.items()}
    filled = ModelParts(parts.graph, *({n: values[n] for n in part} for part in parts[1:]))
    if "epochs" in meta:
        yield from compare_training(meta, arrays, model, filled)
    else:
        yield from compare_outputs(meta, arrays, model, filled)


def compare_positions(meta: dict, arrays: dict, folder: Path) -> Iterator[Comparison]:
    """Positions of another grid."""
    (given,) = (v for n, v in arrays.items() if n.startswith("in/"))
    (recorded,) = (v for n, v in arrays.items() if n.startswith("out/"))
    ours, _ = fit_positions(given[0], (meta["grid"], meta["grid"]), folder)
    yield Comparison("positions", ours, recorded[0], meta["tolerance"])


def compare_copies(model: Model, arrays: dict) -> Iterator[Comparison]:
    """The published model's second copies of frozen weights."""
    for name, value in arrays.items():
        if original := copied(name):
            yield Comparison(f"copy {name}", arrays[original], value, 0.0)


def compare_loaded(meta: dict, model: Model, recorded: dict, folder: Path) -> Iterator[Comparison]:
    """The backbone as the library's own loader reads it."""
    expected = params.flatten(nnx.state(model.backbone))
    for key in ("backbone_file", "pth_file"):
        if key in meta:
            values = load(str(folder / meta[key]), expected, model.backbone.grid).values
            for name, value in values.items():
                yield Comparison(f"loaded {name}", value, recorded[f"backbone/{name}"], 0.0)


def compare_outputs(
    meta: dict, arrays: dict, model: Model, parts: ModelParts
) -> Iterator[Comparison]:
    """Logits, features, loss, gradients and, where recorded, results in between."""
    images, labels = pixels(arrays["in/image"]), jnp.asarray(arrays["in/label"])
    masks = {n.removeprefix("mask/"): v for n, v in arrays.items() if n.startswith("mask/")}
    ctx = EVALUATION
    if masks:
        ctx = Masked(key=jax.random.key(0), masks=masks, places=places(model))

    @jax.jit
    def run(trainable, frozen):
        def loss_fn(trainable):
            model = merge(parts.graph, trainable, parts.stats, frozen)
            out = model(images, ctx)
            return model.method.loss(out, labels, ctx).mean(), out

        return jax.value_and_grad(loss_fn, has_aux=True)(trainable)

    (loss, out), grads = run(parts.trainable, parts.frozen)
    limits = meta["tolerance"]
    yield Comparison("loss", loss, arrays["loss"], limits["logits"])
    pairs = [("logits", "logits", limits["logits"]), ("features", "feat", limits.get("features"))]
    for ours, theirs, atol in pairs:
        for suffix in ("", "_prompt"):
            if f"out/{theirs}{suffix}" in arrays:
                recorded = arrays[f"out/{theirs}{suffix}"]
                yield Comparison(f"{ours}{suffix}", out[f"{ours}{suffix}"], recorded, atol)
    recorded = gather(model, arrays, "grad/")
    if recorded.keys() != parts.trainable.keys():
        raise AssertionError(f"what trains: {sorted(recorded.keys() ^ parts.trainable.keys())}")
    for name, value in recorded.items():
        yield Comparison(f"grad {name}", grads[name], value, limits["grad_rel"] * abs(value).max())
    if not masks:
        yield from compare_between(meta, arrays, images, parts)


def compare_between(
    meta: dict, arrays: dict, images: jax.Array, parts: ModelParts
) -> Iterator[Comparison]:
    """What happens inside, at the recorded tokens."""

    @jax.jit
    def watch(*values):
        model = merge(parts.graph, *values)
        backbone, method = model.backbone, model.method
        method.seen = seen = {}
        state = method.start(backbone, images, EVALUATION)
        for site, layer in zip(backbone.sites, backbone.layers, strict=True):
            state = method.step(layer, state, EVALUATION.at(site.index))
            for stream, tokens in zip(("image", "prompt"), state, strict=True):
                seen[f"stage{site.stage}_{stream}"] = tokens.x
        for name, tokens in zip(("encoded", "encoded_prompt"), state, strict=True):
            seen[name] = backbone.norm(tokens.x)
        return seen

    seen = watch(*parts[1:])
    for name, recorded in arrays.items():
        name = name.removeprefix("out/")
        if re.fullmatch(
            r"(cross_attn|fusion|block)_\d+.*|encoded.*|embed.*|patch_.*|stage.*", name
        ):
            ours = seen[name]
            if ours.shape[-2] != recorded.shape[-2]:
                ours = ours[:, arrays["out/token_index"]]
            limit = meta["tolerance"]["features"] * max(1.0, abs(recorded).max())
            yield Comparison(name, np.broadcast_to(ours, recorded.shape), recorded, limit)


def compare_training(
    meta: dict, arrays: dict, model: Model, parts: ModelParts
) -> Iterator[Comparison]:
    """The published training loop without dropout: the same batches in the same order.

    Optimiser and schedule are those of the recipe.
    """
    config = sa2vp_vtab.get_config().optim
    config.update({k: meta[k] for k in ("lr", "min_lr", "weight_decay")})
    config.warmup_epochs = float(meta["warmup_epochs"])
    check_decay(config, meta, arrays, model, parts)
    length = meta["epochs"] * meta["steps_per_epoch"]
    plan = optim.Plan(length, meta["steps_per_epoch"], meta["batch"])
    optimiser, rate = optim.make_optimiser(config, parts.trainable, plan, False)
    rates = jax.vmap(rate)(jnp.arange(length))
    yield Comparison("learning rate", rates, arrays["out/lr_schedule"], 1e-6 * meta["lr"])
    limit = meta["tolerance"]["loss"]

    def loss_fn(trainable, images, labels):
        model = merge(parts.graph, trainable, parts.stats, parts.frozen)
        out = model(images, Context(key=jax.random.key(0)))
        return model.method.loss(out, labels, EVALUATION).mean(), out["logits"]

    @jax.jit
    def update(trainable, state, images, labels):
        (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(trainable, images, labels)
        updates, state = optimiser.update(grads, state, trainable)
        return optax.apply_updates(trainable, updates), state, loss, optax.tree.norm(grads)

    forward = jax.jit(loss_fn)
    images, labels = [pixels(x) for x in arrays["in/image"]], arrays["in/label"]
    trainable, state = parts.trainable, optimiser.init(parts.trainable)
    steps = meta["steps_per_epoch"]
    for epoch in range(meta["epochs"]):
        for i in range(steps):
            trainable, state, loss, norm = update(trainable, state, images[i], labels[i])
            step = epoch * steps + i
            yield Comparison(f"loss {step}", loss, arrays["out/loss"][step], limit)
            yield Comparison(f"norm {step}", norm, arrays["out/grad_norm"][step], 0.0, 1e-4)
        loss, accuracy = evaluate(meta, arrays, functools.partial(forward, trainable))
        yield Comparison(f"eval {epoch}", loss, arrays["out/eval_loss"][epoch], limit)
        yield Comparison(f"accuracy {epoch}", accuracy, arrays["out/eval_acc1"][epoch], 1e-4)
    for name, value in gather(model, arrays, "final/").items():
        yield Comparison(f"final {name}", trainable[name], value, meta["tolerance"]["final_abs"])


def check_decay(
    config: ConfigDict, meta: dict, arrays: dict, model: Model, parts: ModelParts
) -> None:
    """Raises an AssertionError unless those parameters decay that did when it was recorded."""
    decay = optim.decays(config, parts.trainable, False)
    recorded = {
        ours
        for name, group in meta["weight_decay_group"].items()
        for ours in translate(model, name, arrays[f"param/{name}"])
        if group == "decay"
    }
    if recorded != {n for n, yes in decay.items() if yes}:
        raise AssertionError(f"what decays differs: {recorded}")


def evaluate(meta: dict, arrays: dict, forward: Callable) -> tuple[float, float]:
    """Returns the mean loss of batches and the percentage of images that are right."""
    losses, hits, first = [], 0, 0
    for count in meta["val_batches"]:
        part = slice(first, first + count)
        labels = arrays["in/val_label"][part]
        loss, logits = forward(pixels(arrays["in/val_image"][part]), labels)
        losses, hits = [*losses, float(loss)], hits + int((logits.argmax(-1) == labels).sum())
        first += count
    return np.mean(losses), 100 * hits / first


def pixels(images: np.ndarray) -> jax.Array:
    """B C H W to B H W C."""
    return jnp.asarray(images.transpose(0, 2, 3, 1))
