"""Cases of SA2VP on ViT and Swin: outputs, gradients, dropout masks, training, positions.

Parameters have the names of the published code. It holds copies of the backbone's projections;
ours uses the originals, so the recorded copies must equal them.
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs import sa2vp_vtab
from tests.golden import training
from tests.golden.comparison import NUMBER, Comparison, gradient, numbers, scaled
from tests.golden.record import NotUnderstood, Record, under
from tests.golden.sa2vp_model import Masked, build, copied, gather, places, translate
from vpjax.core import params
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, merge, partition
from vpjax.nn.context import EVALUATION
from vpjax.weights.load import load
from vpjax.weights.positions import fit_positions

RATE = re.compile(rf"\(rate {NUMBER}[,)]")


def compare(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield what a kind of case compares: positions, a training run, or outputs and gradients."""
    meta.ignore("name", "seed")
    if "old_grid" in meta:
        yield from compare_positions(meta, arrays, folder)
        return
    masked = any(n.startswith("mask/") for n in arrays)
    trains = "epochs" in meta
    kind = "TRAIN mode" if masked else "train loop" if trains else "eval"
    if not meta["mode"].startswith(kind):
        raise NotUnderstood(f"mode {meta['mode']!r} of a case with these arrays; expected {kind!r}")
    rate = numbers(RATE, meta["mode"], "mode")[0] if masked else 0.0
    model = build(meta, rate)
    parts = partition(model)
    yield from compare_description(meta, arrays, model)
    values = gather(model, arrays, "param/")
    yield from compare_copies(model, arrays)
    yield from compare_loaded(meta, model, values, folder)
    filled = training.filled(parts, values)
    if trains:
        yield from compare_training(meta, arrays, model, filled)
    else:
        yield from compare_outputs(meta, arrays, model, filled)


def compare_description(meta: Record, arrays: Record, model: Model) -> Iterator[Comparison]:
    """Yield what a case says about its model, batch, masks and trainable parameters."""
    method, backbone = model.method, model.backbone
    sites = [backbone.sites[i] for i in method.at]
    yield Comparison("batch", arrays["in/label"].shape[-1], meta["batch"], 0.0)
    if "grid" in meta:
        yield Comparison("grid", backbone.grid, (meta["grid"],) * 2, 0.0)
    if "cross_grid" in meta:
        yield Comparison("grid of the streams", sites[0].grid, (meta["cross_grid"],) * 2, 0.0)
    if "n_masks" in meta:
        yield Comparison("masks", len(under(arrays, "mask/")), meta["n_masks"], 0.0)
    if "drop_path_rates" in meta:
        rates = {
            f"stage{stage}/block{block}": backbone.layers[i].drop_path
            for i, (stage, block, _) in places(model).items()
            if backbone.sites[i].has_attention
        }
        recorded = dict(meta["drop_path_rates"])
        if recorded.keys() != {place for place, rate in rates.items() if rate}:
            raise NotUnderstood(f"drop path at {sorted(recorded)}")
        for place, rate in recorded.items():
            yield Comparison(f"drop path of {place}", rates[place], rate, 1e-6)
    if "trainable" in meta:
        learnt = {
            ours
            for name in meta["trainable"]
            for ours in translate(model, name, arrays[f"param/{name}"])
        }
        if learnt != (found := partition(model).trainable.keys()):
            raise AssertionError(f"what trains: {sorted(learnt ^ found)}")


def compare_positions(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield the position embeddings of another grid."""
    meta.ignore("method", "heads", "patch")
    (given,) = under(arrays, "in/").values()
    (recorded,) = under(arrays, "out/").values()
    yield Comparison("old grid", given.shape[1:], (1 + meta["old_grid"] ** 2, meta["hidden"]), 0.0)
    ours, _ = fit_positions(given[0], (meta["grid"], meta["grid"]), folder)
    yield scaled("positions", ours, recorded[0], meta["tolerance"])


def compare_copies(model: Model, arrays: Record) -> Iterator[Comparison]:
    """Yield the published model's second copies of frozen weights beside the first."""
    for name in arrays:
        if original := copied(name):
            yield Comparison(f"copy {name}", arrays[original], arrays[name], 0.0)


def compare_loaded(
    meta: Record, model: Model, recorded: dict, folder: Path
) -> Iterator[Comparison]:
    """Yield the backbone as the library's own loader reads it."""
    expected = params.flatten(nnx.state(model.backbone))
    for key in ("backbone_file", "pth_file"):
        if key in meta:
            values = load(str(folder / meta[key]), expected, model.backbone.grid).values
            for name, value in values.items():
                yield Comparison(f"loaded {name}", value, recorded[f"backbone/{name}"], 0.0)


def compare_outputs(
    meta: Record, arrays: Record, model: Model, parts: ModelParts
) -> Iterator[Comparison]:
    """Yield logits, features, loss, gradients and, where recorded, results inside."""
    images, labels = pixels(arrays["in/image"]), jnp.asarray(arrays["in/label"])
    masks = Record(under(arrays, "mask/"))
    ctx = EVALUATION
    if masks:
        ctx = Masked(key=jax.random.key(0), masks=masks, places=places(model))

    @jax.jit
    def run(trainable, frozen):
        def loss_fn(trainable):
            model = merge(parts.graph, trainable, parts.stats, frozen)
            out = model(images, ctx)
            return training.losses(model, out, labels, ctx).mean(), out

        return jax.value_and_grad(loss_fn, has_aux=True)(trainable)

    (loss, out), grads = run(parts.trainable, parts.frozen)
    if unused := masks.unread():
        raise NotUnderstood(f"masks {', '.join(unused)}")
    limits = meta["tolerance"]
    yield scaled("loss", loss, arrays["loss"], limits["logits"])
    if "out/ce_image" in arrays:
        yield from compare_branches(limits["logits"], arrays, out, labels)
    pairs = [("logits", "logits", limits["logits"]), ("features", "feat", limits.get("features"))]
    for ours, theirs, atol in pairs:
        for suffix in ("", "_prompt"):
            if f"out/{theirs}{suffix}" in arrays:
                recorded = arrays[f"out/{theirs}{suffix}"]
                yield scaled(f"{ours}{suffix}", out[f"{ours}{suffix}"], recorded, atol)
    recorded = gather(model, arrays, "grad/")
    if recorded.keys() != parts.trainable.keys():
        raise AssertionError(f"what trains: {sorted(recorded.keys() ^ parts.trainable.keys())}")
    for name, value in recorded.items():
        yield gradient(f"grad {name}", grads[name], value, limits["grad_rel"])
    if not masks:
        yield from compare_inside(meta, arrays, images, parts)


def compare_branches(
    atol: float, arrays: Record, out: dict[str, jax.Array], labels: jax.Array
) -> Iterator[Comparison]:
    """Yield the cross entropy of either stream's logits."""
    for name, suffix in (("image", ""), ("prompt", "_prompt")):
        log_p = jax.nn.log_softmax(out[f"logits{suffix}"])
        ours = -jnp.take_along_axis(log_p, labels[:, None], 1).mean()
        yield scaled(f"cross entropy of {name}", ours, arrays[f"out/ce_{name}"], atol)


def compare_inside(
    meta: Record, arrays: Record, images: jax.Array, parts: ModelParts
) -> Iterator[Comparison]:
    """Yield what happens inside, at the recorded tokens."""

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
    index = arrays["out/token_index"]
    for path in arrays:
        name = path.removeprefix("out/")
        if re.fullmatch(
            r"(cross_attn|fusion|block)_\d+.*|encoded.*|embed.*|patch_.*|stage.*", name
        ):
            ours, recorded = seen[name], arrays[path]
            if ours.shape[-2] != recorded.shape[-2]:
                ours = ours[:, index]
            ours = np.broadcast_to(ours, recorded.shape)
            yield scaled(name, ours, recorded, meta["tolerance"]["features"])


def compare_training(
    meta: Record, arrays: Record, model: Model, parts: ModelParts
) -> Iterator[Comparison]:
    """Yield every step, every epoch and the final parameters of the published training loop.

    It ran without dropout, on the same batches in the same order in every epoch. A step of
    `update_freq` batches is one step of the library, which works through it in as many parts.
    """
    accumulate, steps, epochs = meta["update_freq"], meta["steps_per_epoch"], meta["epochs"]
    options = settings(meta)
    check_decay(meta, arrays, model, parts)
    plan = training.Plan(epochs * steps, steps, accumulate * meta["batch"])
    optimizer, _ = training.make_optimizer(options, parts.trainable, plan)
    rates = training.schedule(options, plan)[:-1]
    for name in ("lr_schedule", "lr_used"):
        yield Comparison(name, rates, arrays[f"out/{name}"], 1e-6 * meta["lr"])
    batches = stacked(arrays, steps, accumulate)
    limit, count = meta["tolerance"]["loss"], itertools.count()
    state = training.start(parts, optimizer)
    train_step = training.make_step(parts, optimizer, plan.steps, accumulate)
    evaluate = training.make_evaluation(parts)
    for epoch in range(epochs):
        found = []
        for images, labels in batches:
            if accumulate > 1:  # the step only returns their mean
                for one in zip(images, labels, strict=True):
                    number = next(count)
                    loss = evaluate(state, [training.batch(*one)])["loss"]
                    yield scaled(f"loss {number}", loss, arrays["out/loss"][number], limit)
            step = int(state.step)
            pair = training.interleaved(images), training.interleaved(labels)
            state, results = train_step(state, training.batch(*pair))
            recorded = arrays["out/loss"][step * accumulate : (step + 1) * accumulate].mean()
            yield scaled(f"step {step}", results["loss"], recorded, limit)
            norm = arrays["out/grad_norm"][step]
            yield Comparison(f"norm {step}", results["grad_norm"], norm, 0.0, 1e-4)
            found.append(results)
        averages = training.averaged(found, int(state.step))
        recorded = arrays["out/epoch_train_loss"][epoch]
        yield scaled(f"epoch {epoch}", averages["loss"], recorded, limit)
        recorded = arrays["out/epoch_train_class_acc"][epoch]
        yield Comparison(f"accuracy {epoch}", averages["accuracy"] / 100, recorded, 1e-6)
        tested = evaluate(state, validation(meta, arrays))
        recorded = arrays["out/eval_loss"][epoch]
        yield scaled(f"evaluated loss {epoch}", tested["batch_loss"], recorded, limit)
        recorded = arrays["out/eval_acc1"][epoch]
        yield Comparison(f"evaluated accuracy {epoch}", tested["accuracy"], recorded, 1e-4)
    for name, value in gather(model, arrays, "final/").items():
        yield scaled(f"final {name}", state.trainable[name], value, meta["tolerance"]["final_abs"])


def settings(meta: Record) -> Any:
    """Return the optimizer's settings; all numbers are the case's, what decays is the recipe's."""
    return training.settings(
        name="adamw",
        lr=meta["lr"],
        min_lr=meta["min_lr"],
        weight_decay=meta["weight_decay"],
        no_decay=sa2vp_vtab.get_config().optim.no_decay,
        clip_norm=meta["clip_grad"] or 0.0,
        schedule="cosine",
        warmup_epochs=float(meta["warmup_epochs"]),
        warmup_from_zero=True,
    )


def check_decay(meta: Record, arrays: Record, model: Model, parts: ModelParts) -> None:
    """Raise an AssertionError unless those parameters decay that did when it was recorded."""
    no_decay = sa2vp_vtab.get_config().optim.no_decay
    options = training.settings(weight_decay=1.0, no_decay=no_decay)
    ours = training.decayed(options, parts.trainable)
    recorded = {
        found
        for name, group in meta["weight_decay_group"].items()
        for found in translate(model, name, arrays[f"param/{name}"])
        if group == "decay"
    }
    if recorded != ours:
        raise AssertionError(f"what decays differs: {sorted(recorded ^ ours)}")


def stacked(arrays: Record, steps: int, accumulate: int) -> list[tuple[Any, Any]]:
    """Return images [k, B, H, W, C] and labels [k, B] of the steps of an epoch, k being parts."""
    images = np.stack([pixels(x) for x in arrays["in/image"]])
    labels = arrays["in/label"]
    if len(labels) != steps * accumulate:
        raise NotUnderstood(f"{steps} steps of {accumulate} batches, but {len(labels)} are there")
    cut = lambda x: x.reshape(steps, accumulate, *x.shape[1:])  # noqa: E731
    return list(zip(cut(images), cut(labels), strict=True))


def validation(meta: Record, arrays: Record) -> Iterator[dict[str, np.ndarray]]:
    """Yield the batches of an evaluation, padded to the largest."""
    counts = meta["val_batches"]
    for first, count in zip(itertools.accumulate(counts, initial=0), counts, strict=False):
        rows = slice(first, first + count)
        images, labels = pixels(arrays["in/val_image"][rows]), arrays["in/val_label"][rows]
        yield training.batch(images, labels, max(counts))


def pixels(images: np.ndarray) -> jax.Array:
    """Return images B C H W as B H W C."""
    return jnp.asarray(images.transpose(0, 2, 3, 1))
