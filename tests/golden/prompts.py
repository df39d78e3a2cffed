"""Prompt methods on vision transformers: E2VPT, Gate-VPT, VFPT, SPT, DA-VPT, CVPT.

The recorded models have the names of three families: those of VPT's supervised ViT ("enc."), of its
self-supervised ones, and of timm. `METHODS` has, by the method's name in a case, what reads its
options (method class, options, options of the backbone).
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.golden import ssl, vit
from tests.golden.comparison import Comparison, limits, scaled
from tests.golden.prompt_options import METHODS, Case
from tests.golden.record import NotUnderstood, Record, under
from tests.golden.training import filled, losses
from vpjax.models.model import Model
from vpjax.models.partition import merge, partition

BEGUN = "method/begun"  # no part of the published model
COPY = re.compile(r"(blocks\.\d+)\.CrossAttn\.(q|k|v|proj)\.(weight|bias)")


def compare(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield outputs, loss and gradients of a case, and what trains."""
    meta.ignore("case", "kind")
    if meta["method"] not in METHODS:
        raise NotUnderstood(f"method {meta['method']}")
    arch = meta["arch"]
    same = {"heads": "heads", "image": "image_size", "classes": "num_classes"}
    for ours, theirs in same.items():
        yield Comparison(theirs, meta[theirs], arch[ours], 0.0)
    case = METHODS[meta["method"]](meta["options"], arrays)
    model = build(case, arch)
    parts = partition(model)
    values = gather(model, arrays, "param/") | case.values
    values |= {n: v for n, v in parts.stats.items() if n == BEGUN}
    trainable, stats, frozen = filled(parts, values)[1:]
    yield from same_set(model, meta, parts, arrays)
    yield from compare_copies(arrays)

    images = jnp.asarray(arrays["in/image"].transpose(0, 2, 3, 1))
    labels = jnp.asarray(arrays["in/label"])
    ctx = case.ctx

    def loss_fn(trainable):
        model = merge(parts.graph, trainable, stats, frozen)
        out = model(images, ctx)
        quiet = model(images, dataclasses.replace(ctx, key=jax.random.key(1)))["logits"]
        return losses(model, out, labels, ctx).mean(), (out, quiet)

    outputs, slopes = (limits(meta["tolerance"][kind]) for kind in ("outputs", "gradients"))
    (loss, (out, quiet)), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(trainable)
    yield scaled("loss", loss, arrays["loss"], **outputs)
    yield scaled("loss of meta", loss, meta["loss"], **outputs)
    yield scaled("logits", out["logits"], arrays["out/logits"], **outputs)
    yield scaled("features", out["features"], arrays["out/features"], **outputs)
    for name, value in gather(model, arrays, "grad/").items():
        yield scaled(f"grad {name}", grads[name], value, **slopes)
    whole = merge(parts.graph, trainable, stats, frozen)
    for more in case.further:
        yield from more(whole, out, labels, outputs)
    yield scaled("train mode", quiet, out["logits"], **outputs)


def build(case: Case, arch: Record) -> Model:
    """Return the model of a case, with random numbers."""
    rngs = nnx.Rngs(0)
    size, patch = arch["image"], arch["patch"]
    sizes = {"dim": arch["D"], "mlp_dim": arch["mlp"], "heads": arch["heads"]}
    sizes |= {"depth": arch["depth"], "dropout": 0.0} | case.of_backbone
    backbone = case.backbone(f"B/{patch}", size, **sizes, rngs=rngs)
    return Model(backbone, case.cls(backbone, arch["classes"], rngs=rngs, **case.options))


def same_set(model: Model, meta: Record, parts: Any, arrays: Record) -> Iterator[Comparison]:
    """Compare which parameters train, and how many numbers they hold."""
    if meta["trainable_without_gradient"]:
        raise NotUnderstood("parameters that train without a gradient")
    learns = {n: arrays[f"param/{n}"] for n in meta["trainable"]}
    expected = {ours for n, v in learns.items() for ours in translate(model, n, v)}
    if expected != parts.trainable.keys():
        raise AssertionError(f"what trains differs: {sorted(expected ^ parts.trainable.keys())}")
    count = sum(v.size for v in parts.trainable.values())
    yield Comparison("trainable count", count, meta["n_trainable"], 0.0)
    if "n_total" in meta:  # the recorded model stores copies of weights, and masks that are fixed
        params = {n.removeprefix("param/"): v for n, v in arrays.items() if n.startswith("param/")}
        extra = [v for n, v in params.items() if not translate(model, n, v)]
        total = count + sum(v.size for v in (*parts.frozen.values(), *extra))
        yield Comparison("total count", total, meta["n_total"], 0.0)


def compare_copies(arrays: Record) -> Iterator[Comparison]:
    """Yield CVPT's frozen copies of each layer's attention beside the attention."""
    for name, value in under(arrays, "param/").items():
        if match := COPY.fullmatch(name):
            block, which, kind = match.groups()
            place = "proj" if which == "proj" else "qkv"
            own = arrays[f"param/{block}.attn.{place}.{kind}"]
            own = own if which == "proj" else np.split(own, 3)["qkv".index(which)]
            yield Comparison(f"copy {name}", own, value, 0.0)


def gather(model: Model, arrays: Record, prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose name begins with `prefix`, by our names."""
    found = (translate(model, n, v) for n, v in under(arrays, prefix).items())
    return {name: value for one in found for name, value in one.items()}


def translate(model: Model, name: str, value: np.ndarray) -> dict[str, np.ndarray]:
    """Bring one torch parameter to our names and shapes; {} for what we do not store."""
    method, short = model.method, name.removeprefix("enc.").removeprefix("transformer.")
    heads = model.backbone.dim // model.backbone.head_dim
    if match := re.fullmatch(r"head\.(?:last_layer\.)?(weight|bias)", name):
        return {f"method/head/{'kernel' if match[1] == 'weight' else 'bias'}": value.T}
    if COPY.fullmatch(name):
        return {}
    if match := re.fullmatch(r"prompt_soft_tokens_(pieces_)?mask_cls_token", short):
        if method.pruned:  # ours are options
            return {}
        return {f"method/{'piece' if match[1] else 'token'}_mask": value}
    if match := re.fullmatch(r"encoder\.layer\.(\d+)\.attn\.deep_QKV_embeddings(_V|)(_K|)", short):
        which = "values" if match[2] else "keys"
        return {f"method/{which}/{match[1]}": value.transpose(1, 0, 2)}
    if match := re.fullmatch(r"prompt_proj\.(weight|bias)", short):
        kind = "kernel" if match[1] == "weight" else "bias"
        return {f"method/projections/{model.backbone.dim}/{kind}": value.T}
    if short in ("gate_logit", "temp"):
        return {f"method/{'gate_logits' if short == 'gate_logit' else 'temperatures'}": value}
    if short == "prompt_embeddings" and name == "enc.prompt_embeddings":
        return {"method/prompts": value[0]}
    first = {"prompt_embeddings": 0, "deep_prompt_embeddings": 1, "prompt_token": 0}
    if short in first | {"Prompt_Tokens": 0}:
        return {f"method/prompts/{first.get(short, 0) + i}": v for i, v in enumerate(value)}
    if short in ("proxy_prompt_tokens", "other_prompt_tokens"):
        guided = [i for i in range(len(model.backbone.layers)) if i in method.guided]
        others = [i for i in range(len(model.backbone.layers)) if i not in method.guided]
        at = guided if short.startswith("proxy") else others
        return {f"method/prompts/{i}": v for i, v in zip(at, value, strict=True)}
    if name.startswith("enc.transformer."):
        return vit.translate(short, value, model.backbone)
    if match := re.fullmatch(r"blocks\.(\d+)\.attn\.([qkv])\.(weight|bias)", short):
        place = {"q": "query", "k": "key", "v": "value"}[match[2]]
        where = f"backbone/layers/{match[1]}/attn/{place}"
        if match[3] == "bias":
            return {f"{where}/bias": value.reshape(heads, -1)}
        return {f"{where}/kernel": value.T.reshape(len(value), heads, -1)}
    return ssl.translate(short, value, model.backbone)
