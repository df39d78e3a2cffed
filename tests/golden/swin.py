"""Swin: names of the torch model, and its tokens after every stage."""

import dataclasses
import re
from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx

from tests.golden.record import NotUnderstood, Record
from vpjax.backbones.swin import Swin
from vpjax.models.model import Model
from vpjax.nn.context import EVALUATION

PARTS = {
    "norm1.weight": "norm1/scale",
    "norm1.bias": "norm1/bias",
    "attn.relative_position_bias_table": "attn/relative_position_bias_table",
    "attn.proj.bias": "attn/out/bias",
    "norm2.weight": "norm2/scale",
    "norm2.bias": "norm2/bias",
    "mlp.fc1.weight": "mlp/fc1/kernel",
    "mlp.fc1.bias": "mlp/fc1/bias",
    "mlp.fc2.weight": "mlp/fc2/kernel",
    "mlp.fc2.bias": "mlp/fc2/bias",
}
MERGING = {
    "norm.weight": "norm/scale",
    "norm.bias": "norm/bias",
    "reduction.weight": "reduction/kernel",
}
SINGLE = {
    "patch_embed.proj.bias": "patch_embed/bias",
    "patch_embed.norm.weight": "patch_norm/scale",
    "patch_embed.norm.bias": "patch_norm/bias",
    "norm.weight": "norm/scale",
    "norm.bias": "norm/bias",
}


def backbone(
    meta: Record, image_size: tuple[int, int], match_reference_code: bool, rngs: nnx.Rngs
) -> Swin:
    """Return the Swin of a case."""
    arch = meta["arch"]
    arch.expect("gelu", "erf")
    arch.expect("mlp_ratio", 4)
    arch.expect("layer_norm_eps", 1e-5)
    arch.ignore("img")  # the image size says it
    return Swin(
        "B",
        image_size,
        window=arch["window"],
        patch_size=arch["patch"],
        embed_dim=arch["embed"],
        depths=tuple(arch["depths"]),
        heads=tuple(arch["heads"]),
        match_reference_code=match_reference_code,
        rngs=rngs,
    )


def weights(meta: Record) -> str:
    """Return the checkpoint's name."""
    return "checkpoint_swin.npz"


def translate(name: str, value: np.ndarray, backbone: Swin) -> dict[str, np.ndarray]:
    """Bring one parameter to our names and shapes."""
    if name in SINGLE:
        return {f"backbone/{SINGLE[name]}": value}
    if name == "patch_embed.proj.weight":
        return {"backbone/patch_embed/kernel": value.transpose(2, 3, 1, 0)}
    if name.endswith(("relative_position_index", "attn_mask")):
        return {}
    match = re.fullmatch(r"layers\.(\d+)\.(?:blocks\.(\d+)|downsample)\.(.*)", name)
    if not match:
        raise NotUnderstood(f"parameter {name}")
    block, part = match[2], match[3]
    stage = [s.index for s in backbone.sites if s.stage == int(match[1])]
    if block is None:
        return {f"backbone/layers/{stage[-1]}/{MERGING[part]}": value.T}
    index = stage[int(block)]
    layer = f"backbone/layers/{index}"
    if part in PARTS:
        keep = part.endswith("table")
        return {f"{layer}/{PARTS[part]}": value if keep else value.T}
    heads = backbone.layers[index].attn.query.bias.shape[0]
    width = backbone.sites[index].dim // heads
    if part == "attn.proj.weight":
        return {f"{layer}/attn/out/kernel": value.T.reshape(heads, width, -1)}
    thirds = zip(("query", "key", "value"), np.split(value, 3), strict=True)
    if part == "attn.qkv.weight":
        return {f"{layer}/attn/{k}/kernel": v.T.reshape(-1, heads, width) for k, v in thirds}
    if part == "attn.qkv.bias":
        return {f"{layer}/attn/{k}/bias": v.reshape(heads, width) for k, v in thirds}
    raise NotUnderstood(f"parameter {name}")


def intermediates(model: Model, images: jax.Array, arrays: Record) -> Iterator[tuple]:
    """Yield tokens after every stage with its merging, and after the last norm.

    Prompts that are only read have no rows in ours.
    """
    ctx = dataclasses.replace(EVALUATION, hook=model.method.tap)

    @jax.jit
    def stages(images):
        out, sites = {}, model.backbone.sites
        state = model.method.start(model.backbone, images, ctx)
        for site, layer in zip(sites, model.backbone.layers, strict=True):
            state = model.method.step(layer, state, ctx.at(site.index))
            tokens = state[0] if isinstance(state, tuple) else state
            out[f"out/stage{site.stage}"] = tokens.x
        return out | {"out/tokens_after_norm": model.backbone.norm(tokens.x)}

    for name, ours in stages(images).items():
        if name in arrays:
            yield name, ours, arrays[name][:, arrays[name].shape[1] - ours.shape[1] :]
