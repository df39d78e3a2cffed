"""Supervised ViTs: names of the torch model, and its tokens after the last norm."""

import dataclasses
import re
from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx

from tests.golden.record import NotUnderstood, Record
from vpjax.backbones.vit import ViT
from vpjax.models.model import Model
from vpjax.nn.context import EVALUATION
from vpjax.nn.stack import run_layers

SINGLE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.bias": "patch_embed/bias",
    "encoder.encoder_norm.weight": "norm/scale",
    "encoder.encoder_norm.bias": "norm/bias",
}
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


def backbone(
    meta: Record, image_size: tuple[int, int], match_reference_code: bool, rngs: nnx.Rngs
) -> ViT:
    """Return the ViT of a case."""
    arch = meta["arch"]
    arch.expect("gelu", "erf")
    arch.ignore("ckpt_img")  # of the weights file, whose positions say it
    return ViT(
        f"B/{arch['patch']}",
        image_size,
        dim=arch["hidden"],
        mlp_dim=arch["mlp"],
        heads=arch["heads"],
        depth=arch["layers"],
        dropout=arch["dropout_rate_in_config"],
        eps=arch.get("layer_norm_eps", 1e-6),
        rngs=rngs,
    )


def weights(meta: Record) -> str:
    """Return the checkpoint's name."""
    return meta["backbone_file"]


def intermediates(model: Model, images: jax.Array, arrays: Record) -> Iterator[tuple]:
    """Yield all tokens after the last norm."""
    if "out/encoded" not in arrays:
        return

    ctx = dataclasses.replace(EVALUATION, hook=model.method.tap)

    @jax.jit
    def encoded(images):
        state = model.method.start(model.backbone, images, ctx)
        state = run_layers(model.backbone.layers, state, model.method.step, ctx)
        tokens = state[0] if isinstance(state, tuple) else state
        return model.backbone.norm(tokens.x)

    ours, recorded = encoded(images), arrays["out/encoded"]
    absent = recorded.shape[1] - ours.shape[1]  # prompts that are only read have no output
    yield "encoded", ours, np.concatenate([recorded[:, :1], recorded[:, 1 + absent :]], axis=1)


def translate(name: str, value: np.ndarray, backbone: ViT) -> dict[str, np.ndarray]:
    """Bring one parameter to our names and shapes."""
    name = name.removeprefix("transformer.")
    heads = backbone.dim // backbone.head_dim
    if name in SINGLE:
        return {f"backbone/{SINGLE[name]}": value[0] if value.ndim == 3 else value}
    if name == "embeddings.patch_embeddings.weight":
        return {"backbone/patch_embed/kernel": value.transpose(2, 3, 1, 0)}
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
