"""Names of Swin files, versions 1 and 2: as released, of timm, of transformers, of torchvision.

    released        layers.2.blocks.5.attn.qkv.weight (3 D, D)  layers.2.downsample.reduction.weight
    timm            layers.2.blocks.5.attn.qkv.weight           layers.3.downsample.reduction.weight
    transformers    encoder.layers.2.blocks.5.attention.self.query.weight
    torchvision     features.5.5.attn.qkv.weight                features.6.reduction.weight
    ours            layers/11/attn/query/kernel (D, N, d)       layers/24/reduction/kernel

Other names are brought to the released ones first. Our layers are one list, in which patch merging
follows its stage. In the released files `layers.2.downsample` is the merging after stage 2; in
timm's it is the one before stage 2. The keys of version 2 have no bias; torchvision's files have
one that is never used.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from vpjax.core.errors import UserError

ANCHOR = (
    r"layers\.0\.blocks\.0\.attn\.(relative_position_bias_table|logit_scale)"
    r"|(swin(v2)?\.)?encoder\.layers\.0\.blocks\.0\.attention\.self\.query\.weight"
    r"|features\.1\.0\.attn\.(relative_position_bias_table|logit_scale)"
)
PREFIXES = r"(module\.)?(encoder\.)?"
BLOCK = r"layers\.(\d+)\.blocks\.(\d+)\."
TABLE = "attn/relative_position_bias_table"
TRANSFORMERS = r"(swin(v2)?\.)?"
# Patterns in other names, and their replacements in the released ones.
OTHERS = {
    "transformers": {
        rf"^{TRANSFORMERS}embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
        rf"^{TRANSFORMERS}embeddings\.norm\.": "patch_embed.norm.",
        rf"^{TRANSFORMERS}embeddings\.position_embeddings$": "absolute_pos_embed",
        rf"^{TRANSFORMERS}embeddings\.mask_token$": "mask_token",
        rf"^{TRANSFORMERS}encoder\.": "",
        rf"^{TRANSFORMERS}layernorm\.": "norm.",
        r"^classifier\.": "head.",
        r"\.layernorm_before\.": ".norm1.",
        r"\.layernorm_after\.": ".norm2.",
        r"\.attention\.self\.continuous_position_bias_mlp\.": ".attn.cpb_mlp.",
        r"\.attention\.self\.": ".attn.",
        r"\.attention\.output\.dense\.": ".attn.proj.",
        r"\.intermediate\.dense\.": ".mlp.fc1.",
        r"\.output\.dense\.": ".mlp.fc2.",
    },
    "torchvision": {
        r"^features\.0\.0\.": "patch_embed.proj.",
        r"^features\.0\.2\.": "patch_embed.norm.",
        r"^features\.([1357])\.": lambda m: f"layers.{int(m[1]) // 2}.blocks.",
        r"^features\.([246])\.": lambda m: f"layers.{int(m[1]) // 2 - 1}.downsample.",
        r"\.mlp\.0\.": ".mlp.fc1.",
        r"\.mlp\.3\.": ".mlp.fc2.",
    },
}
# Computed, or used in training only.
UNUSED = r"(.*/)?(relative_position_index|relative_coords_table|attn_mask|k_bias|mask_token)"
MODULES = {
    "patch_embed/proj": "patch_embed",
    "patch_embed/norm": "patch_norm",
    "head/fc": "head",
    "cpb_mlp/0": "offset_mlp/fc1",
    "cpb_mlp/2": "offset_mlp/fc2",
    "attn/proj": "attn/out",
}
NORMS = ("norm", "norm1", "norm2", "patch_norm")
PROJECTIONS = ("query", "key", "value")


def recognises(names: Collection[str]) -> bool:
    """Return whether names are those of a Swin Transformer."""
    return any(re.fullmatch(rf"{PREFIXES}({ANCHOR})", name) for name in names)


def translate(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return a file's arrays by our names, in our shapes, a fused qkv as three.

    Where names begin with "encoder.", as after self-supervised training, all others are unused.
    Raises: UserError if the file's windows have another size than the model's.
    """
    kind = library(arrays)
    encoder = {n for n in arrays if re.match(r"(module\.)?encoder\.", n)} if not kind else set()
    out = {f"unused/{n}": v for n, v in arrays.items() if encoder and n not in encoder}
    theirs = {released_name(n, kind): arrays[n] for n in encoder or arrays}
    second = is_second(theirs)
    depths = count_blocks(theirs)
    timm = not any(n.startswith("layers.0.downsample.") for n in theirs)
    for name, array in split(theirs, second):
        ours, array = parameter(our_layer(name, depths, timm), array)
        if any(f"/attn/{part}/" in ours for part in (*PROJECTIONS, "out")):
            array = with_heads(array, expected.get(ours))
        out[ours] = array
    check_windows(out, expected)
    return out


def library(names: Collection[str]) -> str:
    """Return whose names they are, "transformers" or "torchvision"; "" for released and timm's."""
    if any(".attention.self." in n for n in names):
        return "transformers"
    return "torchvision" if any(n.startswith("features.0.0.") for n in names) else ""


def released_name(name: str, kind: str) -> str:
    """Return the released name for one of a library; see `library`."""
    for pattern, instead in OTHERS.get(kind, {rf"^{PREFIXES}": ""}).items():
        name = re.sub(pattern, instead, name)
    return name


def is_second(names: Collection[str]) -> bool:
    """Return whether released names are those of version 2."""
    return any(n.endswith("attn.logit_scale") for n in names)


def count_blocks(names: Collection[str]) -> list[int]:
    """Return the number of blocks of every stage."""
    blocks = {m.groups() for n in names if (m := re.match(BLOCK, n))}
    stages = [int(stage) for stage, _ in blocks]
    return [stages.count(stage) for stage in range(max(stages) + 1)]


def split(arrays: Mapping[str, np.ndarray], second: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and arrays, a fused qkv as three.

    Args:
        arrays: by released names.
        second: whether they are of version 2, whose keys have no bias.
    """
    for name, array in arrays.items():
        if ".attn.qkv." in name:
            for part, own in zip(PROJECTIONS, np.split(array, 3), strict=True):
                if second and part == "key" and name.endswith("bias"):
                    yield name.replace(".qkv.bias", ".k_bias"), own
                else:
                    yield name.replace(".qkv.", f".{part}."), own
        else:
            yield re.sub(r"\.([qv])_bias$", _separate_bias, name), array


def our_layer(name: str, depths: list[int], timm: bool) -> str:
    """Return a name with our number of the layer, such as "layers/11/mlp/fc1/weight".

    Args:
        name: such as "layers.2.blocks.5.mlp.fc1.weight".
        depths: number of blocks of every stage.
        timm: whether the file is timm's.
    """
    if m := re.match(BLOCK, name):
        stage, block = int(m[1]), int(m[2])
        name = f"layers.{sum(depths[:stage]) + stage + block}.{name[m.end() :]}"
    elif m := re.match(r"layers\.(\d+)\.downsample\.", name):
        stage = int(m[1]) - timm
        name = f"layers.{sum(depths[: stage + 1]) + stage}.{name[m.end() :]}"
    return name.replace(".", "/")


def parameter(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Return the name and layout here of one parameter of torch."""
    if re.fullmatch(UNUSED, name) or name.startswith("decoder/"):
        return f"unused/{name}", array
    if name == "absolute_pos_embed":
        return "positions", array[0] if array.ndim == 3 else array
    module, _, kind = name.rpartition("/")
    for theirs, ours in MODULES.items():
        module = re.sub(rf"(^|(?<=/)){theirs}$", ours, module)
    if kind == "logit_scale":
        return name, array.reshape(-1)
    if kind != "weight":
        return f"{module}/{kind}".lstrip("/"), array
    if module.rpartition("/")[2] in NORMS:
        return f"{module}/scale", array
    return f"{module}/kernel", array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def with_heads(array: np.ndarray, like: Any | None) -> np.ndarray:
    """Split the axis of all heads in two; what does not fit stays, for the error message."""
    return array.reshape(like.shape) if like is not None and like.size == array.size else array


def window_of(rows: int) -> int:
    """Return the edge of a window whose table of relative positions has so many rows."""
    return (round(rows**0.5) + 1) // 2


def check_windows(values: Mapping[str, np.ndarray], expected: Mapping[str, Any]) -> None:
    """Compare the tables of relative positions.

    Raises: UserError if they are of windows of another size.
    """
    for name in sorted(n for n in values.keys() & expected.keys() if n.endswith(TABLE)):
        theirs, ours = (window_of(tables[name].shape[0]) for tables in (values, expected))
        if theirs != ours:
            raise UserError(
                f"{name}: the file's windows are {theirs}x{theirs}, the model's {ours}x{ours}. Set "
                "backbone.window and backbone.image_size to those of the file; the released ones "
                "are 7 at 224 pixels and 12 at 384."
            )


def _separate_bias(match: re.Match) -> str:
    return {"q": ".query.bias", "v": ".value.bias"}[match[1]]
