"""Names of Google's ViT checkpoints: npz files of JAX arrays, which have our shapes.

    Transformer/encoderblock_7/MultiHeadDotProductAttention_1/query/kernel  (D, N, d)
    layers/7/attn/query/kernel                                              (D, N, d)

One table serves reading and writing. Newer files of the same family number their parts differently
or add a prefix ("opt/target/", "params/"); both forms are read.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

ANCHOR = r"Transformer/encoderblock_0/LayerNorm_0/scale"
TOP = {
    "cls_token": "cls",
    "pos_embed": "Transformer/posembed_input/pos_embedding",
    "patch_embed/": "embedding/",
    "norm/": "Transformer/encoder_norm/",
    "pre_logits/": "pre_logits/",
    "head/": "head/",
}
BLOCK = {
    "norm1/": "LayerNorm_0/",
    "norm2/": "LayerNorm_2/",
    "attn/": "MultiHeadDotProductAttention_1/",
    "mlp/fc1/": "MlpBlock_3/Dense_0/",
    "mlp/fc2/": "MlpBlock_3/Dense_1/",
}
# The other numbering, counted a kind of layer at a time.
OTHER_NUMBERS = {
    "/LayerNorm_1/": "/LayerNorm_2/",
    "/MultiHeadDotProductAttention_0/": "/MultiHeadDotProductAttention_1/",
    "/MlpBlock_0/": "/MlpBlock_3/",
}
# Stored with a leading axis of length 1: (1, 1, D) and (1, 1 + T, D).
WITH_LEADING_AXIS = ("cls_token", "pos_embed")


def recognises(names: Collection[str]) -> bool:
    """Return whether names are those of a Google ViT."""
    return any("Transformer/encoderblock_" in name for name in names)


def translate(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Return a file's arrays by our names; an unknown name stays as it is."""
    out = {}
    for name, array in arrays.items():
        ours = our_name(name)
        out[ours] = array[0] if ours in WITH_LEADING_AXIS and array.ndim == 3 else array
    return out


def our_name(name: str) -> str:
    """Return our name, such as "layers/7/attn/query/kernel", for one of Google's."""
    name = re.sub(r"^(opt/target|params)/", "", name)
    if name == "pos_embedding":
        return "pos_embed"
    for other, usual in OTHER_NUMBERS.items():
        name = name.replace(other, usual)
    if m := re.fullmatch(r"Transformer/encoderblock_(\d+)/(.*)", name):
        return f"layers/{m[1]}/{_swap(m[2], BLOCK)}"
    return _swap(name, TOP)


def google_name(name: str) -> str:
    """Return Google's name for one of ours, such as "layers/7/attn/query/kernel"."""
    swapped = lambda table: {ours: google for google, ours in table.items()}  # noqa: E731
    if m := re.fullmatch(r"layers/(\d+)/(.*)", name):
        return f"Transformer/encoderblock_{m[1]}/{_swap(m[2], swapped(BLOCK))}"
    return _swap(name, swapped(TOP))


def save(path: Path | BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a ViT's arrays, given by our names, as an npz file with Google's names."""
    out = {}
    for name, array in arrays.items():
        array = np.asarray(array, np.float32)
        out[google_name(name)] = array[None] if name in WITH_LEADING_AXIS else array
    np.savez(path, **out)


def _swap(name: str, table: Mapping[str, str]) -> str:
    """Replace the beginning of `name` by the table {ours: theirs}."""
    for ours, theirs in table.items():
        if name == theirs or (theirs.endswith("/") and name.startswith(theirs)):
            return ours + name[len(theirs) :]
    return name
