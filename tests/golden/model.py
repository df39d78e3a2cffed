"""Cases of a backbone under VPT's transfer types: logits, loss, gradients, what trains.

The recorded models have torch names and layouts. A family (tests/golden/vit.py, ssl.py, swin.py,
conv.py) says how its backbone is built and named:

    backbone(meta, image_size, match_reference_code, rngs)    the backbone of a case
    weights(meta)                               its checkpoint beside the case, or None
    translate(name, value, backbone)            a parameter of the encoder by our names
    intermediates(model, images, arrays)        (name, ours, recorded) of results inside

What a family loads through the library's own loader is compared with the recorded model too.
"""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.golden.comparison import Comparison, limits, scaled
from tests.golden.methods import method_of
from tests.golden.record import NotUnderstood, Record, under
from tests.golden.training import filled, losses
from vpjax.backbones.vit import pair
from vpjax.core import params, registry
from vpjax.models.model import Model
from vpjax.models.partition import merge, partition
from vpjax.nn.context import EVALUATION, Context
from vpjax.weights.load import load

NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def compare(family: ModuleType, meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield outputs, loss and gradients of a case, and what trains."""
    meta.ignore("case", "seed", "checkpoint_missing", "checkpoint_unexpected")
    meta.expect("mode", "eval")
    meta.expect("dtype", "float32")
    meta.ignore("family")  # it chose the module
    model = build(family, meta, arrays)
    parts = partition(model)
    recorded = gather(family, model, arrays, "param/")
    values = dict(recorded)
    for name, value in native(family, meta, folder, model).items():
        if name in recorded:  # a recorded model may hold random numbers where a file holds none
            atol = 1e-6 if name.endswith("pos_embed") else 0.0
            yield Comparison(f"loaded {name}", value, recorded[name], atol)
        values[name] = value
    trainable, stats, frozen = filled(parts, values)[1:]
    yield from same_set(family, model, meta, parts, arrays)

    images = jnp.asarray(arrays["in/image"].transpose(0, 2, 3, 1))
    yield Comparison("image size", images.shape[1:3], pair(meta["image_size"]), 0.0)
    labels = jnp.asarray(arrays["in/label"])

    def loss_fn(trainable, ctx):
        model = merge(parts.graph, trainable, stats, frozen)
        out = model(images, ctx)
        return losses(model, out, labels, ctx).mean(), out

    tolerance = {kind: limits(meta["tolerance"][kind]) for kind in ("loss", "logits", "grad")}
    grad_fn = jax.jit(jax.value_and_grad(loss_fn, has_aux=True), static_argnums=1)
    (loss, out), grads = grad_fn(trainable, EVALUATION)
    yield scaled("loss", loss, arrays["loss"], **tolerance["loss"])
    yield scaled("logits", out["logits"], arrays["out/logits"], **tolerance["logits"])
    yield scaled("features", out["features"], arrays["out/features"], **tolerance["logits"])
    for name, value in gather(family, model, arrays, "grad/").items():
        allowed = tolerance["grad"]
        if name.endswith("attn/key/bias"):  # zero in theory
            allowed = {"atol": allowed["atol"]}
        yield scaled(f"grad {name}", grads[name], value, **allowed)

    whole = merge(parts.graph, trainable, stats, frozen)
    for name, ours, theirs in family.intermediates(whole, images, arrays):
        yield scaled(name, ours, theirs, **tolerance["logits"])
    if "out/logits_train_mode" in arrays:
        _, noisy = jax.jit(lambda t: loss_fn(t, Context(key=jax.random.key(0))))(trainable)
        recorded = arrays["out/logits_train_mode"]
        yield scaled("train mode", noisy["logits"], recorded, **tolerance["logits"])
        same = np.allclose(noisy["logits"], out["logits"], **tolerance["logits"])
        yield Comparison("train mode is evaluation", same, meta["train_mode_equals_eval"], 0.0)


def build(family: ModuleType, meta: Record, arrays: Record) -> Model:
    """Return the model of a case, with random numbers, that repeats the published code."""
    rngs = nnx.Rngs(0)
    with tempfile.TemporaryDirectory() as folder:
        cls, options = method_of(meta, arrays, Path(folder))
        size = cls.input_size(pair(meta["image_size"]), options)
        backbone = family.backbone(meta, size, True, rngs)
        if "match_reference_code" in registry.options(cls):
            options["match_reference_code"] = True
        return Model(backbone, cls(backbone, meta["num_classes"], rngs=rngs, **options))


def native(family: ModuleType, meta: Record, folder: Path, model: Model) -> dict[str, np.ndarray]:
    """Return the backbone's parameters as the library itself loads them."""
    if family.weights(meta) is None:
        return {}
    expected = params.flatten(nnx.state(model.backbone))
    path = folder / family.weights(meta)
    values = load(str(path), expected, model.backbone.grid).values
    absent = getattr(family, "NOT_IN_FILE", ())  # names that loading fills with a constant
    return {f"backbone/{n}": v for n, v in values.items() if not n.startswith(absent)}


def same_set(
    family: ModuleType, model: Model, meta: Record, parts: Any, arrays: Record
) -> Iterator[Comparison]:
    """Compare which parameters train, and how many numbers they hold."""
    idle = set(meta["trainable_without_gradient"])
    learns = {n: arrays[f"param/{n}"] for n in meta["trainable"] if n not in idle}
    expected = {ours for n, v in learns.items() for ours in translate(family, model, n, v)}
    if expected != parts.trainable.keys():
        raise AssertionError(f"what trains differs: {sorted(expected ^ parts.trainable.keys())}")
    # What trains without a gradient is a frozen backbone's, or created and never used.
    ours = {n for name in idle for n in translate(family, model, name, arrays[f"param/{name}"])}
    unused = sum(
        arrays[f"param/{n}"].size
        for n in idle
        if not translate(family, model, n, arrays[f"param/{n}"]).keys() & parts.frozen.keys()
    )
    count = sum(v.size for v in parts.trainable.values())
    flagged = sum(v.size for n, v in parts.frozen.items() if n in ours)
    yield Comparison("trainable count", count + flagged, meta["n_trainable"] - unused, 0.0)
    params = [v for n, v in parts.frozen.items() if not n.endswith(("/mean", "/var"))]
    total = count + sum(v.size for v in params)
    yield Comparison("total count", total, meta["n_total"] - unused, 0.0)


def gather(family: ModuleType, model: Model, arrays: Record, prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose name begins with `prefix`, by our names."""
    out = {}
    for name, value in under(arrays, prefix).items():
        if not name.endswith("num_batches_tracked"):
            out |= translate(family, model, name, value)
    return out


def translate(
    family: ModuleType, model: Model, name: str, value: np.ndarray
) -> dict[str, np.ndarray]:
    """Bring one torch parameter to our names and shapes."""
    kind = "kernel" if name.endswith("weight") else "bias"
    if name.startswith("head."):
        return head(name, value)
    if name == "side_alpha":
        return {"method/alpha": value}
    if name == "side_projection.weight":
        # Rows of the flattened C 6 6 become those of 6 6 C.
        x = value.reshape(len(value), -1, 6, 6).transpose(2, 3, 1, 0)
        return {"method/projection": x.reshape(-1, len(value))}
    if m := re.fullmatch(r"side\.features\.(\d+)\.(weight|bias)", name):
        index = (0, 3, 6, 8, 10).index(int(m[1]))
        value = value.transpose(2, 3, 1, 0) if kind == "kernel" else value
        return {f"method/convs/{index}/{kind}": value}
    if "prompt_embeddings" in name:
        return prompts(name.rpartition(".")[2], value, model)
    if ".prompt_proj." in name:
        dims = {str(s.dim) for s in model.backbone.sites}
        return {f"method/projections/{dim}/{kind}": value.T for dim in dims}
    if m := re.search(r"\.(\d+)\..*adapter_(down|up)sample\.", name):
        suffix = "" if kind == "kernel" else "_bias"
        return {f"method/adapters/{m[1]}/{m[2]}{suffix}": value.T}
    out = family.translate(name.removeprefix("enc."), value, model.backbone)
    stem = next((v for n, v in out.items() if "kernel" in n and v.ndim == 4), None)
    if stem is not None and hasattr(model.method, "stem") and stem.shape[2] > 3:
        (full,) = out  # below: the published convolution holds old and new channels
        return {full: stem[:, :, :3], "method/kernel": stem[:, :, 3:]}
    return out


def prompts(name: str, value: np.ndarray, model: Model) -> dict[str, np.ndarray]:
    """Bring prompts to our names; those stacked over layers become one a layer."""
    method = type(model.method).__name__
    if method == "Pad":
        which = "rows" if name.endswith("_tb") else "columns"
        return {f"method/{which}": value[0].transpose(1, 2, 0)}
    if method in ("PrependPixel", "Below"):
        return {"method/prompts": value[0].transpose(1, 2, 0)}
    sites = [s for s in model.backbone.sites if s.has_attention]
    if name == "prompt_embeddings":
        return {f"method/prompts/{sites[0].index}": value[0]}
    if m := re.fullmatch(r"deep_prompt_embeddings_(\d)", name):  # of one stage of a Swin
        indices = [s.index for s in sites[1:] if s.stage == int(m[1])]
    else:
        at = getattr(model.method, "at", ())
        indices = at if len(at) == len(value) else [s.index for s in sites[1:]]
    return {f"method/prompts/{i}": p for i, p in zip(indices, value, strict=False)}


def head(name: str, value: np.ndarray) -> dict[str, np.ndarray]:
    """Bring a parameter of the head to our name and shape."""
    if name.startswith("head.last_layer."):
        return {f"method/head/{'kernel' if name.endswith('weight') else 'bias'}": value.T}
    _, _, number, kind = name.split(".")
    index, place = divmod(int(number), 4)
    if place == 0:
        kind = "kernel" if kind == "weight" else "bias"
        return {f"method/head/hidden/{index}/{kind}": value.T}
    if place != 2:
        raise NotUnderstood(f"parameter {name}")
    return {f"method/head/hidden/{index}/norm/{NORM[kind]}": value}
