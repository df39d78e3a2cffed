"""Names of ConvNeXt files: as released, of timm, of torchvision.

    released        stages.2.1.pwconv1.weight
    timm            stages.2.blocks.1.mlp.fc1.weight
    torchvision     features.5.1.block.3.weight
    ours            layers/9/mlp/fc1/kernel             (size T; a downsampling is a layer too)

timm's and torchvision's names are brought to the released ones first.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from vpjax.weights.resnet import depths, our_layout, our_leaf

MARKS = r"stages\.0\.(blocks\.)?0\.(dwconv|conv_dw)\.weight|features\.1\.0\.layer_scale"
ANCHOR = MARKS
# Patterns in other names, and their replacements in the released ones.
OTHERS = {
    r"^module\.": "",
    # timm
    r"^stem\.": "downsample_layers.0.",
    r"^stages\.(\d+)\.downsample\.": r"downsample_layers.\1.",
    r"^stages\.(\d+)\.blocks\.": r"stages.\1.",
    r"\.conv_dw\.": ".dwconv.",
    r"\.mlp\.fc([12])\.": r".pwconv\1.",
    r"^head\.norm\.": "norm.",
    r"^head\.fc\.": "head.",
    # torchvision
    r"^features\.([0246])\.": lambda m: f"downsample_layers.{int(m[1]) // 2}.",
    r"^features\.([1357])\.": lambda m: f"stages.{int(m[1]) // 2}.",
    r"\.block\.0\.": ".dwconv.",
    r"\.block\.2\.": ".norm.",
    r"\.block\.3\.": ".pwconv1.",
    r"\.block\.5\.": ".pwconv2.",
    r"\.layer_scale$": ".gamma",
    r"^classifier\.0\.": "norm.",
    r"^classifier\.2\.": "head.",
}
TOP = {"downsample_layers.0.0": "patch_embed", "downsample_layers.0.1": "patch_norm"}
INSIDE = {"dwconv": "conv", "norm": "norm", "pwconv1": "mlp/fc1", "pwconv2": "mlp/fc2"}


def recognises(names: Collection[str]) -> bool:
    """Return whether names are those of a ConvNeXt."""
    return any(re.fullmatch(MARKS, n.removeprefix("module.")) for n in names)


def translate(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Return a file's arrays by our names; an unknown name stays as it is."""
    released = {n: released_name(n) for n in arrays}
    counts = depths(released.values(), r"stages\.(\d+)\.(\d+)\.")
    first = [stage + sum(counts[:stage]) for stage in range(len(counts))]
    return {
        (ours := our_name(released[n], first)): our_layout(_flat(ours, array))
        for n, array in arrays.items()
    }


def released_name(name: str) -> str:
    """Return the released name, such as "stages.2.1.pwconv1.weight", for any of the three."""
    for pattern, instead in OTHERS.items():
        name = re.sub(pattern, instead, name)
    return name


def our_name(name: str, first: Sequence[int]) -> str:
    """Return our name for a released one; layer `first[s]` is the first block of stage s."""
    path, _, leaf = name.rpartition(".")
    if path in ("norm", "head"):
        ours = path
    elif path in TOP:
        ours = TOP[path]
    elif m := re.fullmatch(r"downsample_layers\.(\d+)\.([01])", path):
        ours = f"layers/{first[int(m[1])] - 1}/{('norm', 'conv')[int(m[2])]}"
    elif (m := re.fullmatch(r"stages\.(\d+)\.(\d+)(?:\.(\w+))?", path)) and (
        m[3] in INSIDE or leaf == "gamma"
    ):
        layer = f"layers/{first[int(m[1])] + int(m[2])}"
        ours = f"{layer}/{INSIDE[m[3]]}" if m[3] else layer
    else:
        return name
    return f"{ours}/{our_leaf(ours, leaf)}"


def _flat(ours: str, array: np.ndarray) -> np.ndarray:
    """Drop the two axes of length 1 of files that store matrices as convolutions."""
    if ours.endswith("/gamma"):
        return array.reshape(-1)
    return array.reshape(array.shape[:2]) if "/mlp/" in ours else array
