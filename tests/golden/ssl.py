"""Self-supervised ViTs, MAE and MoCo v3: timm's names, and the tokens after the last block."""

import dataclasses
import re
from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx

from tests.golden.record import NotUnderstood, Record
from vpjax.backbones.vit import MAE, MoCoV3
from vpjax.models.model import Model
from vpjax.nn.context import EVALUATION
from vpjax.nn.stack import run_layers

CLASSES = {"mae": MAE, "moco": MoCoV3}
# Not in a checkpoint: random in the recorded models, where loading starts it at 1 and 0.
NOT_IN_FILE = ("fc_norm/",)
PLACES = {
    "patch_embed.proj": "patch_embed",
    "norm": "norm",
    "fc_norm": "fc_norm",
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attn/out",
    "mlp.fc1": "mlp/fc1",
    "mlp.fc2": "mlp/fc2",
}


def backbone(
    meta: Record, image_size: tuple[int, int], match_reference_code: bool, rngs: nnx.Rngs
) -> MAE | MoCoV3:
    """Return the ViT of a case."""
    arch = meta["arch"]
    arch.expect("gelu", "erf")
    arch.expect("qkv_bias", True)
    arch.ignore("img")  # the image size says it
    return CLASSES[meta["family"]](
        f"B/{arch['patch']}",
        image_size,
        dim=arch["hidden"],
        mlp_dim=round(arch["hidden"] * arch["mlp_ratio"]),
        heads=arch["heads"],
        depth=arch["layers"],
        eps=arch.get("layer_norm_eps", 1e-6),
        rngs=rngs,
    )


def weights(meta: Record) -> str:
    """Return the checkpoint's name."""
    return f"checkpoint_{meta['family']}.npz"


def translate(name: str, value: np.ndarray, backbone: MAE | MoCoV3) -> dict[str, np.ndarray]:
    """Bring one parameter to our names and shapes."""
    if name in ("cls_token", "pos_embed"):
        return {f"backbone/{name}": value[0]}
    block, place, kind = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.*)\.(weight|bias)", name).groups()
    ours = "backbone/" if block is None else f"backbone/layers/{block}/"
    heads = backbone.dim // backbone.head_dim
    if place == "attn.qkv":
        thirds = zip(("query", "key", "value"), np.split(value, 3), strict=True)
        if kind == "bias":
            return {f"{ours}attn/{n}/bias": v.reshape(heads, -1) for n, v in thirds}
        return {f"{ours}attn/{n}/kernel": v.T.reshape(len(v), heads, -1) for n, v in thirds}
    if place not in PLACES:
        raise NotUnderstood(f"parameter {name}")
    ours += PLACES[place]
    if kind == "bias":
        return {f"{ours}/bias": value}
    if value.ndim == 1:
        return {f"{ours}/scale": value}
    if value.ndim == 4:
        return {f"{ours}/kernel": value.transpose(2, 3, 1, 0)}
    value = value.T
    return {f"{ours}/kernel": value.reshape(heads, -1, len(value)) if "out" in ours else value}


def intermediates(model: Model, images: jax.Array, arrays: Record) -> Iterator[tuple]:
    """Yield all tokens after the last block, before any norm."""
    ctx = dataclasses.replace(EVALUATION, hook=model.method.tap)

    @jax.jit
    def after_last_block(images):
        state = model.method.start(model.backbone, images, ctx)
        state = run_layers(model.backbone.layers, state, model.method.step, ctx)
        return (state[0] if isinstance(state, tuple) else state).x

    ours, recorded = after_last_block(images), arrays["out/tokens_after_last_block"]
    absent = recorded.shape[1] - ours.shape[1]  # prompts that are only read have no output
    yield "encoded", ours, np.concatenate([recorded[:, :1], recorded[:, 1 + absent :]], axis=1)
