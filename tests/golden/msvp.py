"""Cases of MS-VP: prompts alone, whole models, batch statistics, full size."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.golden.msvp_model import build, drawn, fill, gather, pixels, places, to_hwc
from tests.golden.msvp_training import compare_metrics, compare_schedules, compare_training
from tests.golden.runner import Comparison, NotUnderstood
from vpjax.backbones.cnn import CNN
from vpjax.backbones.small_vit import SmallViT
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, merge, partition
from vpjax.nn.context import EVALUATION, Context

TRAINING = Context(key=jax.random.key(0), noisy_backbone=True)


def compare(meta: dict, arrays: dict, folder: Path) -> Iterator[Comparison]:
    """Yields ours beside what was recorded."""
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
    return kinds[meta["kind"]](meta, arrays)


def compare_prompting(meta: dict, arrays: dict) -> Iterator[Comparison]:
    """The prompts before any network."""
    named = {f"param/prompting.{n[6:]}": v for n, v in arrays.items() if n.startswith("param/")}
    model = build(meta | {"input_size": (32, 32), "config": {"width": 2}})
    values = {n: jnp.asarray(v) for n, v in gather(model, named, "param/").items()}
    parts = partition(model)
    rest = {n: jnp.zeros(v.shape) for part in parts[1:] for n, v in part.items()}
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
    outer = {"atol": limits["out_atol"], "rtol": limits["out_rtol"]}
    inner = {"atol": limits["grad_atol"], "rtol": limits["grad_rtol"]}
    yield Comparison("loss", loss, arrays["loss"], **inner)
    for name, recorded in arrays.items():
        if name.startswith("out/"):
            ours = np.moveaxis(np.asarray(seen.pop(name[4:])), -1, -3)
            yield Comparison(name, ours, recorded, **outer)
    if seen:
        raise NotUnderstood(f"nothing is recorded for {sorted(seen)}")
    yield Comparison("grad_in/x", grad_x, pixels(arrays["grad_in/x"]), **inner)
    named = {f"grad/prompting.{n[5:]}": v for n, v in arrays.items() if n.startswith("grad/")}
    for name, recorded in gather(model, named, "grad/").items():
        yield Comparison(f"grad {name}", grads[name], recorded, **inner)


def forward(parts: ModelParts, images: Any, labels: Any, ctx: Context) -> tuple:
    """Returns loss, outputs by the fixtures' names and running averages, and the gradients."""

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
            loss = method.loss({"logits": out["logits"]}, labels, ctx).mean()
            return loss, (out, partition(model).stats)

        return jax.value_and_grad(loss_fn, has_aux=True)(trainable)

    (loss, (out, stats)), grads = run(parts.trainable, parts.stats, images)
    return loss, out, stats, grads


def compare_model(meta: dict, arrays: dict) -> Iterator[Comparison]:
    """A whole model, evaluated or with the batch's statistics."""
    model, training = build(meta), meta["kind"] == "train_bn"
    parts = fill(model, arrays)
    images, labels = jnp.asarray(pixels(arrays["in/x"])), jnp.asarray(arrays["in/label"])
    ctx = TRAINING if training else EVALUATION
    loss, out, stats, grads = forward(parts, images, labels, ctx)
    yield from compare_outputs(meta, arrays, loss, out)
    yield from compare_gradients(model, arrays, grads, 5e-3 if training else 1e-3)
    if training:
        limits = {"atol": meta["tolerance"]["out_atol"], "rtol": meta["tolerance"]["out_rtol"]}
        recorded = gather(model, arrays, "out/state/")
        if recorded.keys() != stats.keys():
            raise NotUnderstood("not every running average is recorded")
        for name, value in recorded.items():
            yield Comparison(f"after {name}", stats[name], value, **limits)
        after = forward(parts._replace(stats=stats), images, labels, EVALUATION)[1]
        yield Comparison("after", after["logits"], arrays["out/logits_eval_after"], **limits)


def compare_outputs(meta: dict, arrays: dict, loss: Any, out: dict) -> Iterator[Comparison]:
    """Loss, prompted images, features and logits."""
    limits = {"atol": meta["tolerance"]["out_atol"], "rtol": meta["tolerance"]["out_rtol"]}
    yield Comparison("loss", loss, arrays["loss"], **limits)
    yield Comparison("logits", out["logits"], arrays["out/logits"], **limits)
    if "out/prompted0" in arrays:
        first = to_hwc(arrays["out/prompted0"][None])
        yield Comparison("prompted", out["prompted"][0], first, **limits)
    if "out/prompted" in arrays:
        yield Comparison("prompted", out["prompted"], pixels(arrays["out/prompted"]), **limits)
    features, recorded = np.asarray(out["features"]), arrays["out/features"]
    if "out/pooled" in arrays:
        yield Comparison("pooled", features.mean((1, 2)), arrays["out/pooled"], **limits)
        features = features[..., : recorded.shape[1]]
    recorded = pixels(recorded) if recorded.ndim == 4 else recorded
    yield Comparison("features", features, recorded, **limits)


def compare_gradients(
    model: Model, arrays: dict, grads: dict, share: float
) -> Iterator[Comparison]:
    """Every gradient, against the largest number of the published tensor it belongs to."""
    where, recorded = places(model), gather(model, arrays, "grad/")
    if recorded.keys() != grads.keys():
        raise NotUnderstood(f"what trains: {sorted(recorded.keys() ^ grads.keys())}")
    for name, value in recorded.items():
        largest = np.abs(arrays[f"grad/{where[name].name}"]).max()
        yield Comparison(f"grad {name}", grads[name], value, share * largest + 1e-6)


def compare_full_size(meta: dict, arrays: dict) -> Iterator[Comparison]:
    """A model of the published size with numbers from the recipe."""
    model = build(meta)
    values = drawn(model, meta["param_seed"])
    for name, value in arrays.items():
        if name.startswith("param_head/"):
            head = values[f"param/{name.removeprefix('param_head/')}"].ravel()[: value.size]
            yield Comparison(name, head, value, 1e-7)
    parts = fill(model, values)
    count = sum(v.size for v in parts.trainable.values())
    yield Comparison("parameters", count, meta["n_parameters"], 0.0)
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
    """Returns gradients by the published names and in the published layouts."""
    out = {}
    for name, place in places(model).items():
        if name in grads:
            # Which of our numbers each of theirs is: their indices, brought to our layout.
            count = int(np.prod(place.shape))
            index = place.ours(np.arange(count).reshape(place.shape))
            flat = out.setdefault(place.name, np.zeros(place.shape, np.float32)).reshape(-1)
            flat[np.asarray(index).ravel()] = np.asarray(grads[name]).ravel()
    return out
