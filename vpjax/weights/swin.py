"""Names of Swin files: as released, and of timm.

    layers.2.blocks.5.attn.qkv.weight (3 D, D)    layers/11/attn/{query,key,value}/kernel (D, N, d)
    layers.2.downsample.reduction.weight          layers/24/reduction/kernel

Our layers are one list, in which patch merging follows its stage. In the released files
`layers.2.downsample` is the merging after stage 2; in timm's it is the one before stage 2.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from vpjax.core.errors import UserError

PREFIXES = r"(module\.)?(encoder\.)?"
BLOCK = r"layers\.(\d+)\.blocks\.(\d+)\."
ANCHOR = r"layers\.0\.blocks\.0\.attn\.relative_position_bias_table"
TABLE = "attn/relative_position_bias_table"
BUFFERS = ("relative_position_index", "attn_mask")  # computed, not read
MODULES = {"patch_embed/proj": "patch_embed", "patch_embed/norm": "patch_norm", "head/fc": "head"}
NORMS = ("norm", "norm1", "norm2", "patch_norm")


def recognises(names: Collection[str]) -> bool:
    """Return whether names are those of a Swin Transformer, version 1."""
    table = re.compile(PREFIXES + BLOCK + TABLE.replace("/", r"\."))
    return any(table.fullmatch(name) for name in names)


def translate(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return a file's arrays by our names, in our shapes, a fused qkv as three.

    Where names begin with "encoder.", as after self-supervised training, all others are unused.
    Raises: UserError if the file's windows have another size than the model's.
    """
    encoder = {n for n in arrays if re.match(r"(module\.)?encoder\.", n)}
    out = {f"unused/{n}": v for n, v in arrays.items() if encoder and n not in encoder}
    theirs = {re.sub("^" + PREFIXES, "", n): arrays[n] for n in encoder or arrays}
    depths = count_blocks(theirs)
    timm = not any(n.startswith("layers.0.downsample.") for n in theirs)
    for name, array in split(theirs):
        ours, array = parameter(our_layer(name, depths, timm), array)
        if "/attn/" in ours and TABLE not in ours:
            array = with_heads(array, expected.get(ours))
        out[ours] = array
    check_windows(out, expected)
    return out


def count_blocks(names: Collection[str]) -> list[int]:
    """Return the number of blocks of every stage."""
    blocks = {m.groups() for n in names if (m := re.match(BLOCK, n))}
    stages = [int(stage) for stage, _ in blocks]
    return [stages.count(stage) for stage in range(max(stages) + 1)]


def split(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and arrays, a fused qkv as three."""
    for name, array in arrays.items():
        if ".attn.qkv." in name:
            for part, own in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                yield name.replace(".qkv.", f".{part}."), own
        else:
            yield name, array


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
    module, _, kind = name.rpartition("/")
    if kind in BUFFERS:
        return f"unused/{name}", array
    module = re.sub(r"attn/proj$", "attn/out", MODULES.get(module, module))
    if kind != "weight":
        return f"{module}/{kind}".lstrip("/"), array
    if module.rpartition("/")[2] in NORMS:
        return f"{module}/scale", array
    return f"{module}/kernel", array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def with_heads(array: np.ndarray, like: Any | None) -> np.ndarray:
    """Split the axis of all heads in two; what does not fit stays, for the error message."""
    return array.reshape(like.shape) if like is not None and like.size == array.size else array


def check_windows(values: Mapping[str, np.ndarray], expected: Mapping[str, Any]) -> None:
    """Compare the tables of relative positions.

    Raises: UserError if they are of windows of another size.
    """
    edge = lambda table: (round(table.shape[0] ** 0.5) + 1) // 2  # noqa: E731
    for name in sorted(n for n in values.keys() & expected.keys() if n.endswith(TABLE)):
        theirs, ours = edge(values[name]), edge(expected[name])
        if theirs != ours:
            raise UserError(
                f"{name}: the file's windows are {theirs}x{theirs}, the model's {ours}x{ours}. Set "
                "backbone.window and backbone.image_size to those of the file; the released ones "
                "are 7 at 224 pixels and 12 at 384."
            )
