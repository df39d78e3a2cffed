"""Names of ResNet files: torchvision's, also below a prefix.

    layer3.1.bn2.running_var        layers/8/norm2/var
    layer3.0.downsample.0.weight    layers/7/downsample/conv/kernel

timm has the same names. MoCo's files hold the encoder twice and projection heads; the query encoder
(v2) or base encoder (v3) is taken, the rest is unused. Kernels are stored as out in H W.
"""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

PREFIX = r"(?:module\.)?(?:encoder_q\.|base_encoder\.)?"
ANCHOR = r"layer1\.0\.conv1\.weight"
TOP = {"conv1": "patch_embed", "bn1": "patch_norm", "fc": "head"}
INSIDE = {"bn": "norm", "downsample.0": "downsample/conv", "downsample.1": "downsample/norm"}
NORM = {"weight": "scale", "running_mean": "mean", "running_var": "var"}


def recognises(names: Collection[str]) -> bool:
    """Return whether names are those of a ResNet."""
    return _prefix(names) is not None


def translate(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Return a file's arrays by our names; an unknown name stays as it is."""
    prefix = _prefix(arrays) or ""
    inside = {n: n.removeprefix(prefix) for n in arrays if n.startswith(prefix)}
    first = list(itertools.accumulate(depths(inside.values(), r"layer(\d+)\.(\d+)\."), initial=0))
    out = {}
    for name, array in arrays.items():
        ours = our_name(inside[name], first) if name in inside else f"unused/{name}"
        out[ours] = our_layout(array)
    return out


def our_name(name: str, first: Sequence[int]) -> str:
    """Return our name for torchvision's; layer `first[s]` is the first of stage s."""
    path, _, leaf = name.rpartition(".")
    if leaf == "num_batches_tracked" or path.startswith("fc."):  # fc.0: a projection head
        return f"unused/{name}"
    if path in TOP:
        ours = TOP[path]
    elif m := re.fullmatch(r"layer(\d+)\.(\d+)\.(conv\d|bn\d|downsample\.[01])", path):
        ours = f"layers/{first[int(m[1]) - 1] + int(m[2])}/{m[3]}"
        for theirs, part in INSIDE.items():
            ours = ours.replace(theirs, part)
    else:
        return name
    return f"{ours}/{our_leaf(ours, leaf)}"


def our_leaf(module: str, leaf: str) -> str:
    """Return our name of a parameter: "scale", "mean", "var" of a norm, "kernel" elsewhere."""
    return NORM.get(leaf, leaf) if "norm" in module else {"weight": "kernel"}.get(leaf, leaf)


def our_layout(array: np.ndarray) -> np.ndarray:
    """Turn a kernel "out in H W" to "H W in out", and a matrix "out in" to "in out"."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def depths(names: Collection[str], block: str) -> list[int]:
    """Return the number of blocks of each stage.

    `block` is a regular expression whose two groups are the stage and the block of a name.
    """
    found = {m.groups() for m in (re.match(block, n) for n in names) if m}
    stages = sorted({int(stage) for stage, _ in found})
    return [sum(int(s) == stage for s, _ in found) for stage in stages]


def _prefix(names: Collection[str]) -> str | None:
    found = (re.fullmatch(rf"({PREFIX})layer1\.0\.conv1\.weight", n) for n in names)
    return next((m[1] for m in found if m), None)
