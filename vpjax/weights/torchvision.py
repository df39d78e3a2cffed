"""Names of torchvision's Vision Transformers, `vit_b_16` and its kin.

    encoder.layers.encoder_layer_7.self_attention.in_proj_weight  (3 D, D), query, key, value
    layers/7/attn/query/kernel                                    (D, N, d), and key and value

Old files number the layers of an MLP (`mlp.0`, `mlp.3`), as its dropouts count too. There is no
configuration beside such a file, and shapes do not show the number of heads; but these names are
torchvision's alone, and torchvision has five Vision Transformers. A file of another size leaves the
number of heads open.
"""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from vpjax.weights import layout
from vpjax.weights.description import Description, WeightsFile

ANCHOR = r"encoder\.layers\.encoder_layer_0\.self_attention\.in_proj_weight"
MARK = "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"
EPS = 1e-6  # of every LayerNorm in torchvision's class
# Width, depth and patch of an architecture: its name and its heads.
ARCHITECTURES = {
    (768, 12, 16): ("vit_b_16", 12),
    (768, 12, 32): ("vit_b_32", 12),
    (1024, 24, 16): ("vit_l_16", 16),
    (1024, 24, 32): ("vit_l_32", 16),
    (1280, 32, 14): ("vit_h_14", 16),
}
TOP = {
    "conv_proj": "patch_embed",
    "encoder.ln": "norm",
    "heads.head": "head",
    "heads.pre_logits": "pre_logits",
}
BLOCK = {
    "ln_1": "norm1",
    "ln_2": "norm2",
    "self_attention.out_proj": "attn/out",
    "mlp.0": "mlp/fc1",
    "mlp.3": "mlp/fc2",
    "mlp.linear_1": "mlp/fc1",
    "mlp.linear_2": "mlp/fc2",
}


def recognises(names: Collection[str]) -> bool:
    """Return whether names are those of a torchvision ViT."""
    return MARK in names


def describe(file: WeightsFile) -> Description:
    """Return the ViT of a file; heads are open where it is none of torchvision's five."""
    dim, channels, patch, _ = file.shapes["conv_proj.weight"]
    numbers = {m[1] for n in file.shapes if (m := re.search(r"\.encoder_layer_(\d+)\.", n))}
    name, heads = ARCHITECTURES.get((dim, len(numbers), patch), ("ViT", None))
    fc1 = next(
        s for n, s in file.shapes.items() if re.search(r"layer_0\.mlp\.(0|linear_1)\.weight", n)
    )
    options = {
        "image_size": patch * math.isqrt(file.shapes["encoder.pos_embedding"][1] - 1),
        "patch_size": patch,
        "dim": dim,
        "mlp_dim": fc1[0],
        "heads": heads,
        "depth": len(numbers),
        "channels": channels,
        "eps": EPS,
        "activation": "gelu",
        "pre_logits": "heads.pre_logits.weight" in file.shapes,
    }
    open_options = () if heads else ("heads",)
    options = {n: v for n, v in options.items() if v is not None}
    return Description(f"a torchvision {name}", "vit.ViT", options, open_options)


def translate(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return a file's arrays by our names, in our shapes; an unknown name stays as it is."""
    out = {}
    for name, array in arrays.items():
        for ours, own in _translate(name, array).items():
            out[ours] = layout.with_heads(ours, own, expected)
    return out


def _translate(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    if name == "class_token":
        return {"cls_token": array.reshape(1, -1)}
    if name == "encoder.pos_embedding":
        return {"pos_embed": array[0]}
    place, _, kind = name.rpartition(".")
    layer = ""
    if m := re.fullmatch(r"encoder\.layers\.encoder_layer_(\d+)\.(.*)", place):
        layer, place = f"layers/{m[1]}/", m[2]
    if layer and place == "self_attention" and kind in ("in_proj_weight", "in_proj_bias"):
        ours = "kernel" if kind == "in_proj_weight" else "bias"
        parts = layout.split(array, ("query", "key", "value"))
        return {f"{layer}attn/{n}/{ours}": v.T for n, v in parts.items()}
    ours = (BLOCK if layer else TOP).get(place)
    if ours is None or kind not in ("weight", "bias"):
        return {name: array}
    if kind == "bias":
        return {f"{layer}{ours}/bias": array}
    if array.ndim == 1:
        return {f"{layer}{ours}/scale": array}
    return {f"{layer}{ours}/kernel": layout.kernel(array)}
