"""Cases of a supervised ViT under VPT's transfer types: logits, loss, gradients, what trains.

The recorded model has torch names and layouts; `ours` brings a parameter to our names and shapes.
The backbone itself comes through the native loader, and is compared with the recorded one too.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.golden.runner import Comparison, NotUnderstood
from vpjax import names
from vpjax.backbones.vit import ViT
from vpjax.context import Context
from vpjax.methods.finetune import Full, Linear
from vpjax.methods.vpt import VPT
from vpjax.model import EVALUATION, Model, put_together, run, take_apart
from vpjax.weights.load import load

ENCODER = "enc.transformer."
PARTS = {
    "attention_norm.weight": "norm1/scale",
    "attention_norm.bias": "norm1/bias",
    "ffn_norm.weight": "norm2/scale",
    "ffn_norm.bias": "norm2/bias",
    "ffn.fc1.weight": "mlp/fc1/kernel",
    "ffn.fc1.bias": "mlp/fc1/bias",
    "ffn.fc2.weight": "mlp/fc2/kernel",
    "ffn.fc2.bias": "mlp/fc2/bias",
}
NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def compare(meta: dict, arrays: dict, folder: Path) -> Iterator[Comparison]:
    """Yields ours beside what was recorded."""
    model = build(meta)
    parts = take_apart(model)
    heads = meta["arch"]["heads"]
    recorded = gather(arrays, "param/", heads)
    backbone = {f"backbone/{n}": v for n, v in native(meta, folder, model).items()}
    for name, value in backbone.items():
        atol = 1e-6 if name.endswith("pos_embed") else 0.0
        yield Comparison(f"loaded {name}", value, recorded[name], atol)

    values = {n: jnp.asarray(v) for n, v in (recorded | backbone).items()}
    fill = lambda part: {n: values[n] for n in part}  # noqa: E731
    trainable, stats, frozen = (fill(part) for part in parts[1:])
    yield from same_set(meta, parts, arrays, heads)

    images = jnp.asarray(arrays["in/image"].transpose(0, 2, 3, 1))
    labels = jnp.asarray(arrays["in/label"])

    def loss_fn(trainable, ctx):
        model = put_together(parts.graph, trainable, stats, frozen)
        out = model(images, ctx)
        return model.method.loss(out, labels, ctx).mean(), out

    tolerance = meta["tolerance"]
    grad_fn = jax.jit(jax.value_and_grad(loss_fn, has_aux=True), static_argnums=1)
    (loss, out), grads = grad_fn(trainable, EVALUATION)
    yield Comparison("loss", loss, arrays["loss"], **tolerance["loss"])
    yield Comparison("logits", out["logits"], arrays["out/logits"], **tolerance["logits"])
    yield Comparison("features", out["features"], arrays["out/features"], **tolerance["logits"])
    for name, value in gather(arrays, "grad/", heads).items():
        limits = tolerance["grad"]
        if name.endswith("attn/key/bias"):  # zero in theory
            limits = {"atol": limits["atol"]}
        yield Comparison(f"grad {name}", grads[name], value, **limits)

    if "out/encoded" in arrays:
        model = put_together(parts.graph, trainable, stats, frozen)
        tokens = jax.jit(lambda images: encoded(model, images))(images)
        expected = without_prompts(arrays["out/encoded"], tokens.shape[1])
        yield Comparison("encoded", tokens, expected, **tolerance["logits"])
    if "out/logits_train_mode" in arrays:
        _, out = jax.jit(lambda t: loss_fn(t, Context(key=jax.random.key(0))))(trainable)
        recorded = arrays["out/logits_train_mode"]
        yield Comparison("train mode", out["logits"], recorded, **tolerance["logits"])


def build(meta: dict) -> Model:
    """Returns the model of a case, with random numbers."""
    arch, options = meta["arch"], dict(meta["options"])
    rngs = nnx.Rngs(0)
    backbone = ViT(
        f"B/{arch['patch']}",
        meta["image_size"],
        dim=arch["hidden"],
        mlp_dim=arch["mlp"],
        heads=arch["heads"],
        depth=arch["layers"],
        dropout=arch["dropout_rate_in_config"],
        rngs=rngs,
    )
    transfer = options.pop("MODEL.TRANSFER_TYPE")
    shared = {"head_hidden": options.pop("MODEL.MLP_NUM", 0), "rngs": rngs}
    if transfer == "prompt":
        cls = VPT
        shared["num_tokens"] = options.pop("MODEL.PROMPT.NUM_TOKENS", 5)
        shared["deep"] = options.pop("MODEL.PROMPT.DEEP", False)
        shared["dropout"] = options.pop("MODEL.PROMPT.DROPOUT", 0.0)
        project = options.pop("MODEL.PROMPT.PROJECT", -1)
        shared["project"] = project if project > 0 else None
    elif transfer in ("linear", "end2end"):
        cls = Linear if transfer == "linear" else Full
    else:
        raise NotUnderstood(f"transfer type {transfer}")
    if options:
        raise NotUnderstood(f"options {', '.join(options)}")
    return Model(backbone, cls(backbone, meta["num_classes"], **shared))


def native(meta: dict, folder: Path, model: Model) -> dict[str, np.ndarray]:
    """Returns the backbone's numbers as the library itself loads them."""
    path = folder / meta["backbone_file"]
    expected = names.flatten(nnx.state(model.backbone))
    return load(str(path), expected, model.backbone.grid).values


def same_set(meta: dict, parts, arrays: dict, heads: int) -> Iterator[Comparison]:
    """Compares which parameters train, and how many numbers that is."""
    idle = set(meta["trainable_without_gradient"])
    learns = {n: arrays[f"param/{n}"] for n in meta["trainable"] if n not in idle}
    expected = {ours for n, v in learns.items() for ours in translate(n, v, heads)}
    if expected != parts.trainable.keys():
        raise AssertionError(f"what trains differs: {sorted(expected ^ parts.trainable.keys())}")
    count = sum(v.size for v in parts.trainable.values())
    unused = sum(arrays[f"param/{n}"].size for n in idle)
    yield Comparison("trainable count", count, meta["n_trainable"] - unused, 0.0)
    total = count + sum(v.size for v in parts.frozen.values())
    yield Comparison("total count", total, meta["n_total"] - unused, 0.0)


def encoded(model: Model, images: jax.Array) -> jax.Array:
    """Returns all tokens after the last norm."""
    tokens = model.method.start(model.backbone, images, EVALUATION)
    tokens = run(model.backbone.layers, tokens, model.method.step, EVALUATION)
    return model.backbone.norm(tokens.x)


def without_prompts(recorded: np.ndarray, length: int) -> np.ndarray:
    """Leaves out prompts, where ours have no output, to `length` tokens."""
    absent = recorded.shape[1] - length
    return np.concatenate([recorded[:, :1], recorded[:, 1 + absent :]], axis=1)


def gather(arrays: dict, prefix: str, heads: int) -> dict[str, np.ndarray]:
    """Returns the arrays whose name begins with `prefix`, by our names."""
    out = {}
    for name, value in arrays.items():
        if name.startswith(prefix) and not name.endswith("num_batches_tracked"):
            out |= translate(name.removeprefix(prefix), value, heads)
    return out


def translate(name: str, value: np.ndarray, heads: int) -> dict[str, np.ndarray]:
    """Brings one torch parameter to our names and shapes; deep prompts become one a layer."""
    if name.startswith("head."):
        return head(name, value)
    name = name.removeprefix(ENCODER)
    single = {
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.bias": "patch_embed/bias",
        "encoder.encoder_norm.weight": "norm/scale",
        "encoder.encoder_norm.bias": "norm/bias",
    }
    if name in single:
        return {f"backbone/{single[name]}": value[0] if value.ndim == 3 else value}
    if name == "embeddings.patch_embeddings.weight":
        return {"backbone/patch_embed/kernel": value.transpose(2, 3, 1, 0)}
    if name == "prompt_embeddings":
        return {"method/prompts/0": value[0]}
    if name == "deep_prompt_embeddings":
        return {f"method/prompts/{i}": p for i, p in enumerate(value, start=1)}
    if name.startswith("prompt_proj."):
        kind = "kernel" if name.endswith("weight") else "bias"
        return {f"method/project/{kind}": value.T}
    match = re.fullmatch(r"encoder\.layer\.(\d+)\.(.*)", name)
    if not match:
        raise NotUnderstood(f"parameter {name}")
    layer, part = f"backbone/layers/{match[1]}", match[2]
    if part in PARTS:
        return {f"{layer}/{PARTS[part]}": value.T}
    match = re.fullmatch(r"attn\.(query|key|value|out)\.(weight|bias)", part)
    if not match:
        raise NotUnderstood(f"parameter {name}")
    kind, what = match.groups()
    if what == "weight":
        width = value.shape[0] // heads
        shape = (heads, width, -1) if kind == "out" else (-1, heads, width)
        return {f"{layer}/attn/{kind}/kernel": value.T.reshape(shape)}
    return {f"{layer}/attn/{kind}/bias": value if kind == "out" else value.reshape(heads, -1)}


def head(name: str, value: np.ndarray) -> dict[str, np.ndarray]:
    """Our name of a parameter of the head."""
    if name.startswith("head.last_layer."):
        return {f"method/head/{'kernel' if name.endswith('weight') else 'bias'}": value.T}
    _, _, number, kind = name.split(".")
    index, place = divmod(int(number), 4)
    if place == 0:
        kind = "kernel" if kind == "weight" else "bias"
        return {f"method/head/hidden/{index}/{kind}": value.T}
    return {f"method/head/hidden/{index}/norm/{NORM[kind]}": value}
