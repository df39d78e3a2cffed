"""Cases of MS-VP: prompts without a network, whole models, batch statistics, full size."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.golden import training
from tests.golden.comparison import GRADIENT, Comparison, gradient, numbers, outputs, scaled
from tests.golden.msvp_model import (
    assembled,
    build,
    compare_shape,
    fill,
    gather,
    pixels,
    places,
    recipe_values,
)
from tests.golden.msvp_training import compare_metrics, compare_schedules, compare_training
from tests.golden.record import NotUnderstood, Record, under
from vpjax.backbones.cnn import CNN
from vpjax.backbones.small_vit import SmallViT
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, merge, partition
from vpjax.nn.context import EVALUATION, Context
from vpjax.weights.msvp import to_hwc

TRAINING = Context(key=jax.random.key(0), noisy_backbone=True)
BATCH_NORM = {
    "eps": 1e-5,
    "momentum_new": 0.1,
    "running_var": "unbiased batch variance",
    "normalise": "biased batch variance",
}


def compare(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield what a kind of case compares."""
    meta.ignore("seed")
    kinds = {
        "prompting": compare_prompting,
        "backbone": compare_model,
        "train_bn": compare_model,
        "full_size": compare_full_size,
        "train_steps": compare_training,
        "schedules": compare_schedules,
        "metrics": compare_metrics,
    }
    if meta["kind"] not in kinds:
        raise NotUnderstood(f"kind {meta['kind']}")
    yield from compare_shape(meta, arrays)
    yield from kinds[meta["kind"]](meta, arrays)


def compare_prompting(meta: Record, arrays: Record) -> Iterator[Comparison]:
    """Yield prompts, prompted images and gradients, before any network."""
    meta.expect("loss", "sum(prompted * cotangent)")
    named = {f"param/prompting.{n}": v for n, v in under(arrays, "param/").items()}
    model = assembled("cnn", (32, 32), {"width": 2}, meta)
    values = {n: jnp.asarray(v) for n, v in gather(model, named, "param/").items()}
    parts = partition(model)
    rest = {n: jnp.zeros(v.shape) for part in parts[1:] for n, v in part.items()}
    if wrong := [n for n, v in values.items() if v.shape != rest[n].shape]:
        raise NotUnderstood(f"shapes of {wrong}")
    x, cotangent = (jnp.asarray(pixels(arrays[f"in/{n}"])) for n in ("x", "cotangent"))
    if values.keys() != {n for n in rest if n.startswith("method/") and "head" not in n}:
        raise NotUnderstood(f"parameters {sorted(values)}")

    @jax.jit
    def run(values, x):
        def loss_fn(values, x):
            method = merge(parts.graph, rest | values).method
            prompts, y = method.enlarged(x.shape[1:3]), method.prompted(x)
            mean = sum(prompts.values()) / len(prompts)
            seen = {f"up_{scale}": p for scale, p in prompts.items()} | {"mean_prompt": mean}
            if meta["fusion_type"] == "gated":
                seen["gate"] = method.gate(mean)
            return (y * cotangent).sum(), seen | {"prompted": y}

        return jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)(values, x)

    (loss, seen), (grads, grad_x) = run(values, x)
    limits = meta["tolerance"]
    outer = outputs(meta)
    inner = {"atol": limits["grad_atol"], "rtol": limits["grad_rtol"]}
    yield scaled("loss", loss, arrays["loss"], **inner)
    for name, recorded in under(arrays, "out/").items():
        ours = np.moveaxis(np.asarray(seen.pop(name)), -1, -3)
        yield scaled(name, ours, recorded, **outer)
    if seen:
        raise NotUnderstood(f"nothing is recorded for {sorted(seen)}")
    yield scaled("grad_in/x", grad_x, pixels(arrays["grad_in/x"]), **inner)
    named = {f"grad/prompting.{n}": v for n, v in under(arrays, "grad/").items()}
    for name, recorded in gather(model, named, "grad/").items():
        yield scaled(f"grad {name}", grads[name], recorded, **inner)


def forward(parts: ModelParts, images: Any, labels: Any, ctx: Context) -> tuple:
    """Return loss, outputs by the recorded names, running averages, and gradients."""

    @jax.jit
    def run(trainable, stats, images):
        def loss_fn(trainable):
            model = merge(parts.graph, trainable, stats, parts.frozen)
            method, backbone = model.method, model.backbone
            start = method.prompted(images) if hasattr(method, "prompted") else images
            state = method.start(backbone, images, ctx)
            for site, layer in zip(backbone.sites, backbone.layers, strict=True):
                features = state  # of the CNN: what enters its dense layer
                state = method.step(layer, state, ctx.at(site.index))
            out = method.predict(backbone, state, ctx)
            if isinstance(backbone, SmallViT):
                features = out["features"]
            else:
                last = features if isinstance(backbone, CNN) else state
                features = last.x.reshape(len(last.x), *last.grid, -1)
            out = {"prompted": start, "features": features, "logits": out["logits"]}
            loss = training.losses(model, {"logits": out["logits"]}, labels, ctx).mean()
            return loss, (out, partition(model).stats)

        return jax.value_and_grad(loss_fn, has_aux=True)(trainable)

    (loss, (out, stats)), grads = run(parts.trainable, parts.stats, images)
    return loss, out, stats, grads


def compare_model(meta: Record, arrays: Record) -> Iterator[Comparison]:
    """Yield outputs and gradients of a whole model, evaluated or with the batch's statistics."""
    model, trains = build(meta), meta["kind"] == "train_bn"
    meta.expect("mode", "train; every dropout probability set to 0" if trains else "eval")
    meta.expect("loss", "mean cross-entropy")
    share, floor = numbers(GRADIENT, meta["tolerance"]["grad"], "tolerance of gradients")
    parts = fill(model, arrays)
    images, labels = jnp.asarray(pixels(arrays["in/x"])), jnp.asarray(arrays["in/label"])
    ctx = TRAINING if trains else EVALUATION
    loss, out, stats, grads = forward(parts, images, labels, ctx)
    yield from compare_outputs(meta, arrays, loss, out)
    yield from compare_gradients(model, arrays, grads, share, floor)
    if trains:
        for key, value in BATCH_NORM.items():
            meta["batchnorm"].expect(key, value)
        limits = outputs(meta)
        recorded = gather(model, arrays, "out/state/")
        if recorded.keys() != stats.keys():
            raise NotUnderstood("not every running average is recorded")
        for name, value in recorded.items():
            yield scaled(f"after {name}", stats[name], value, **limits)
        logits = evaluated(parts._replace(stats=stats), images)
        yield scaled("after", logits, arrays["out/logits_eval_after"], **limits)


def evaluated(parts: ModelParts, images: Any) -> Any:
    """Return the logits of an evaluation."""

    @jax.jit
    def run(trainable, stats, frozen):
        return merge(parts.graph, trainable, stats, frozen)(images)["logits"]

    return run(*parts[1:])


def compare_outputs(meta: Record, arrays: Record, loss: Any, out: dict) -> Iterator[Comparison]:
    """Yield loss, prompted images, features and logits."""
    limits = outputs(meta)
    yield scaled("loss", loss, arrays["loss"], **limits)
    yield scaled("logits", out["logits"], arrays["out/logits"], **limits)
    if "out/prompted0" in arrays:
        first = to_hwc(arrays["out/prompted0"][None])
        yield scaled("prompted", out["prompted"][0], first, **limits)
    if "out/prompted" in arrays:
        yield scaled("prompted", out["prompted"], pixels(arrays["out/prompted"]), **limits)
    features, recorded = np.asarray(out["features"]), arrays["out/features"]
    if "out/pooled" in arrays:
        yield scaled("pooled", features.mean((1, 2)), arrays["out/pooled"], **limits)
        features = features[..., : recorded.shape[1]]
    recorded = pixels(recorded) if recorded.ndim == 4 else recorded
    yield scaled("features", features, recorded, **limits)


def compare_gradients(
    model: Model, arrays: Record, grads: dict, share: float, floor: float
) -> Iterator[Comparison]:
    """Yield every gradient, held to a share of the largest number of its published tensor."""
    where, recorded = places(model), gather(model, arrays, "grad/")
    if recorded.keys() != grads.keys():
        raise NotUnderstood(f"what trains: {sorted(recorded.keys() ^ grads.keys())}")
    for name, value in recorded.items():
        tensor = arrays[f"grad/{where[name].name}"]
        yield gradient(f"grad {name}", grads[name], value, share, floor, of=tensor)


def compare_full_size(meta: Record, arrays: Record) -> Iterator[Comparison]:
    """Yield outputs and digests of gradients of a model of the published size."""
    meta.expect("mode", "eval")
    meta.expect("loss", "mean cross-entropy")
    meta.ignore("params")
    model = build(meta)
    values = recipe_values(model, meta["param_seed"])
    for name, value in under(arrays, "param_head/").items():
        head = values[f"param/{name}"].ravel()[: value.size]
        yield Comparison(f"drawn {name}", head, value, 1e-7)
    parts = fill(model, values)
    prompts = [n for n in parts.trainable if re.match("method/(?!head/)", n)]
    count = sum(v.size for v in parts.trainable.values())
    yield Comparison("parameters", count, meta["n_parameters"], 0.0)
    count -= sum(parts.trainable[n].size for n in prompts)
    yield Comparison("parameters of the network", count, meta["n_backbone_parameters"], 0.0)
    images, labels = jnp.asarray(pixels(arrays["in/x"])), jnp.asarray(arrays["in/label"])
    loss, out, _, grads = forward(parts, images, labels, EVALUATION)
    yield from compare_outputs(meta, arrays, loss, out)
    limits = meta["tolerance"]
    for name, value in whole(model, grads).items():
        if (norm := f"gradnorm/{name}") in arrays:
            found = np.linalg.norm(value.astype(np.float64))
            yield Comparison(norm, found, arrays[norm], 1e-6, limits["gradnorm_rtol"])
        for kind, ours in (("grad_head", value.ravel()[:16]), ("grad", value)):
            if f"{kind}/{name}" in arrays:
                recorded = arrays[f"{kind}/{name}"]
                limit = limits["grad_atol"] + limits["grad_rtol"] * np.abs(value).max()
                yield Comparison(f"{kind}/{name}", ours, recorded, limit)


def whole(model: Model, grads: dict) -> dict[str, np.ndarray]:
    """Return gradients by the published names and in the published layouts."""
    out = {}
    for name, place in places(model).items():
        if name in grads:
            # Which of our numbers each of theirs is: their indices, brought to our layout.
            count = int(np.prod(place.shape))
            index = place.ours(np.arange(count).reshape(place.shape))
            flat = out.setdefault(place.name, np.zeros(place.shape, np.float32)).reshape(-1)
            flat[np.asarray(index).ravel()] = np.asarray(grads[name]).ravel()
    return out
