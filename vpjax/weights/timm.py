"""Names of ViT files written with timm's modules: MAE, MoCo v3 and others.

    blocks.7.attn.qkv.weight   (3 D, D), rows in the order query, key, value, heads within
    layers/7/attn/query/kernel (D, N, d), and key and value

Linear weights are stored (out, in), the patch convolution (D, 3, p, p). Pre-training files hold
more than the encoder, which goes to "unused/": MAE's decoder; MoCo v3's momentum encoder, projector
and predictor. Register tokens and layer scale (DINOv2) are not supported: such files do not load.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

ANCHOR = r"blocks\.0\.attn\.qkv\.weight"
# Prefixes of the training scripts before the encoder's names.
PREFIX = re.compile(r"^module\.(base_encoder\.)?")
UNUSED = re.compile(r"decoder_.*|mask_token|(momentum_encoder|predictor|head\.\d+)\..*")

TOP = {"patch_embed.proj": "patch_embed", "norm": "norm", "fc_norm": "fc_norm", "head": "head"}
BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attn/out",
    "mlp.fc1": "mlp/fc1",
    "mlp.fc2": "mlp/fc2",
}


def recognises(names: Collection[str]) -> bool:
    """Return whether names are those of a timm ViT."""
    return any(PREFIX.sub("", n) == "blocks.0.attn.qkv.weight" for n in names)


def translate(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return a file's arrays by our names, in our shapes; an unknown name stays as it is.

    A backbone that pools before its last norm (`fc_norm`) starts that norm at scale 1, bias 0 where
    the file has none; the file's own last norm, which saw other tokens, is then unused.
    """
    heads = next((v.shape[1] for n, v in expected.items() if n.endswith("query/kernel")), 1)
    out = {}
    for name, array in arrays.items():
        short = PREFIX.sub("", name)
        if UNUSED.fullmatch(short):
            out[f"unused/{name}"] = array
        else:
            out |= _translate(short, array, heads)
    if "fc_norm/scale" in expected:
        out = {(f"unused/{n}" if n.startswith("norm/") else n): v for n, v in out.items()}
        for kind, value in (("scale", np.ones), ("bias", np.zeros)):
            shape = expected[f"fc_norm/{kind}"].shape
            out.setdefault(f"fc_norm/{kind}", value(shape, np.float32))
    return out


def _translate(name: str, array: np.ndarray, heads: int) -> dict[str, np.ndarray]:
    place, _, kind = name.rpartition(".")
    if name in ("cls_token", "pos_embed"):
        return {name: array[0] if array.ndim == 3 else array}
    if m := re.fullmatch(r"blocks\.(\d+)\.(.*)", place):
        layer, part = f"layers/{m[1]}", m[2]
        if part == "attn.qkv" and len(array) % 3 == 0:
            return {f"{layer}/{n}": v for n, v in _split(array, kind, heads).items()}
        ours = f"{layer}/{BLOCK[part]}" if part in BLOCK else None
    else:
        ours = TOP.get(place)
    if ours is None or kind not in ("weight", "bias"):
        return {name: array}
    if kind == "bias":
        return {f"{ours}/bias": array}
    if array.ndim == 1:
        return {f"{ours}/scale": array}
    if array.ndim == 4:
        return {f"{ours}/kernel": array.transpose(2, 3, 1, 0)}  # p p 3 D
    kernel = array.T  # in out
    if ours.endswith("attn/out") and len(kernel) % heads == 0:
        kernel = kernel.reshape(heads, -1, kernel.shape[1])  # N d D
    return {f"{ours}/kernel": kernel}


def _split(array: np.ndarray, kind: str, heads: int) -> dict[str, np.ndarray]:
    """Split a fused qkv; a width that `heads` do not divide stays whole, for the error message."""
    ours = "kernel" if kind == "weight" else "bias"
    out = {}
    for name, part in zip(("query", "key", "value"), np.split(array, 3), strict=True):
        part = part.T  # D D, or D
        if part.shape[-1] % heads == 0:
            part = part.reshape(*part.shape[:-1], heads, -1)
        out[f"attn/{name}/{ours}"] = part
    return out
