"""Names of Google's ViT checkpoints: npz files of JAX arrays, which have our shapes.

    Transformer/encoderblock_7/MultiHeadDotProductAttention_1/query/kernel  (D, N, d)
    layers/7/attn/query/kernel                                              (D, N, d)

One table serves reading and writing. Newer files of the same family number their parts differently
or add a prefix ("opt/target/", "params/", "params/img/"); all forms are read. Two programs write
them:

    vision_transformer    positions under Transformer/posembed_input, the class token's first
    big_vision            positions at the top, of patches only, or none: sines and cosines; layers
                          may be stacked; MAPHead_0 is attention pooling (Zhai et al. 2022, arXiv
                          2106.04560); SigLIP (arXiv 2303.15343) is of this kind

Both train with the tanh form of GELU. Files of the first are read with the exact one all the same,
as in VPT's code and in every port to torch, whose numbers vpjax repeats; files of the second as
they were trained.
"""

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vpjax.core.errors import UserError
from vpjax.weights import layout
from vpjax.weights.description import Description, WeightsFile

ANCHOR = r"Transformer/encoderblock(_0)?/LayerNorm_0/scale"
PREFIX = re.compile(r"^(opt/target|params)/(img/)?")
EPS = 1e-6  # of every LayerNorm, in both programs
OTHER_NETWORKS = ("conv_root/", "root_block/", "block1/")  # a ResNet before the layers
OLD_POSITIONS = "Transformer/posembed_input/pos_embedding"  # of vision_transformer
TOP = {
    "cls_token": "cls",
    "pos_embed": OLD_POSITIONS,
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
# Attention pooling, which counts a kind of layer at a time.
MAP_HEAD = {
    "probe": "probe",
    "norm/": "LayerNorm_0/",
    "attn/": "MultiHeadDotProductAttention_0/",
    "mlp/fc1/": "MlpBlock_0/Dense_0/",
    "mlp/fc2/": "MlpBlock_0/Dense_1/",
}
# The other numbering, counted a kind of layer at a time.
OTHER_NUMBERS = {
    "/LayerNorm_1/": "/LayerNorm_2/",
    "/MultiHeadDotProductAttention_0/": "/MultiHeadDotProductAttention_1/",
    "/MlpBlock_0/": "/MlpBlock_3/",
}
# Stored with a leading axis of length 1: (1, 1, D) and (1, 1 + T, D).
WITH_LEADING_AXIS = ("cls_token", "pos_embed")
LEADING_AXIS = (*WITH_LEADING_AXIS, "attn_pool/probe")


def recognises(names: Collection[str]) -> bool:
    """Return whether names are those of a Google ViT, without a ResNet before it."""
    short = [PREFIX.sub("", n) for n in names]
    if any(n.startswith(OTHER_NETWORKS) for n in short):
        return False
    return any(
        n.startswith(("Transformer/encoderblock_", "Transformer/encoderblock/")) for n in short
    )


def describe(file: WeightsFile) -> Description:
    """Return the ViT of a file; all its sizes are in the arrays, whose axes are heads too.

    Raises:
        UserError: if arrays are missing, or patches are no convolution.
    """
    shapes = {n: a.shape for n, a in translate(layout.placeholders(file.shapes)).items()}
    try:
        rows, columns, channels, dim = shapes["patch_embed/kernel"]
        options = {
            "patch_size": rows if rows == columns else (rows, columns),
            "dim": dim,
            "mlp_dim": shapes["layers/0/mlp/fc1/bias"][0],
            "heads": shapes["layers/0/attn/query/bias"][0],
            "depth": len({n.split("/")[1] for n in shapes if n.startswith("layers/")}),
            "channels": channels,
            "eps": EPS,
        }
    except KeyError as e:
        raise UserError(f"weights {file.path} are a Google ViT, but have no {e.args[0]}") from e
    except ValueError as e:
        raise UserError(
            f"weights {file.path}: patches are a linear layer {shapes['patch_embed/kernel']}, as "
            "for images of any shape (NaFlex). vpjax reads patches that are a convolution."
        ) from e
    old = any(name.endswith(OLD_POSITIONS) for name in file.shapes)
    token, mapped = "cls_token" in shapes, "attn_pool/probe" in shapes
    options |= {
        "activation": "gelu" if old else "gelu_tanh",
        "class_token": token,
        "prefix_positions": 0,
        "pool": "map" if mapped else "token" if token else "mean",
    }
    if "pos_embed" in shapes:
        count = shapes["pos_embed"][0]
        # A square and its successor are never both squares.
        own = int(token and math.isqrt(count) ** 2 != count)
        edge = math.isqrt(count - own)
        options["prefix_positions"] = own
        if edge * edge == count - own:
            options["image_size"] = (
                edge * rows if rows == columns else (edge * rows, edge * columns)
            )
    return Description(
        f"a Google ViT ({'vision_transformer' if old else 'big_vision'})",
        "vit.ViT",
        options,
        open=() if "image_size" in options else ("image_size",),
        resample="align_corners",  # in both programs
    )


def translate(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Return a file's arrays by our names; an unknown name stays as it is.

    Positions that are sines and cosines are not in the file: they are computed.
    """
    out = {}
    for name, array in _unstacked(arrays).items():
        ours = our_name(name)
        out[ours] = array[0] if ours in LEADING_AXIS and array.ndim == 3 else array
    if "pos_embed" not in out and "pos_embed" in (expected or {}):
        out["pos_embed"] = waves(*expected["pos_embed"].shape)
    return out


def no_head(names: Collection[str], expected: Mapping[str, Any]) -> str:
    """Return why a file's classifier does not suit the model's features; "" if it does.

    Args:
        names: of the file.
        expected: the model's names.
    """
    if "pre_logits/kernel" not in names or "pre_logits/kernel" in expected:
        return ""
    return (
        "it reads the dense layer pre_logits, which the model leaves out. Set "
        "backbone.pre_logits=True, or head='new'"
    )


def waves(count: int, dim: int) -> np.ndarray:
    """Return big_vision's fixed positions of a square grid, (h w) D.

    A quarter of the width each: sin and cos of the column, then of the row, at the frequencies
    10000^(-j / (D / 4 - 1)). Source: Beyer et al. 2022, arXiv 2205.01580.

    Raises:
        UserError: if `count` is no square, or the width does not divide by 4.
    """
    edge, quarter = math.isqrt(count), dim // 4
    if edge * edge != count or dim % 4 or quarter < 2:
        raise UserError(
            f"the file has no positions: they are sines and cosines of a square grid, and the "
            f"model has {count} positions {dim} wide. Choose a square backbone.image_size."
        )
    frequency = 10000.0 ** (-np.arange(quarter) / (quarter - 1))
    row, column = (axis.reshape(-1, 1) * frequency for axis in np.mgrid[:edge, :edge])
    parts = [wave(angle) for angle in (column, row) for wave in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def our_name(name: str) -> str:
    """Return our name, such as "layers/7/attn/query/kernel", for one of Google's."""
    name = PREFIX.sub("", name)
    if name == "pos_embedding":
        return "pos_embed"
    if name.startswith("MAPHead_0/"):
        return f"attn_pool/{_swap(name.removeprefix('MAPHead_0/'), MAP_HEAD)}"
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


def has_name(name: str) -> bool:
    """Return whether one of our names has one in Google's checkpoints."""
    inside = re.sub(r"^layers/\d+/", "", name)
    return inside.startswith(tuple(BLOCK if inside != name else TOP))


def save(path: Path | BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a ViT's arrays, given by our names, as an npz file with Google's names."""
    out = {}
    for name, array in arrays.items():
        array = np.asarray(array, np.float32)
        out[google_name(name)] = array[None] if name in WITH_LEADING_AXIS else array
    np.savez(path, **out)


def _unstacked(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Take arrays of all layers apart, along their first axis."""
    out = {}
    for name, array in arrays.items():
        before, stacked, part = name.partition("Transformer/encoderblock/")
        if stacked:
            out |= {f"{before}Transformer/encoderblock_{i}/{part}": a for i, a in enumerate(array)}
        else:
            out[name] = array
    return out


def _swap(name: str, table: Mapping[str, str]) -> str:
    """Replace the beginning of `name` by the table {ours: theirs}."""
    for ours, theirs in table.items():
        if name == theirs or (theirs.endswith("/") and name.startswith(theirs)):
            return ours + name[len(theirs) :]
    return name
