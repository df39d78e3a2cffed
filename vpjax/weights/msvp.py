"""Names and layouts of the published MS-VP networks, where each of our arrays is in them.

backbone/layers/0/conv/kernel    (3, 3, I, O)        features.3.weight    (O, I, 3, 3)
method/global_prompt             (1, 1, C)           prompting.global_prompt    (1, C, 1, 1)
"""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

FEATURES = (3, 7, 10, 14, 17, 21, 24)  # the CNN's convolutions behind the first
PROJECTIONS = ("query", "key", "value")
INSIDE = {"norm1": "bn1", "norm2": "bn2", "downsample/conv": "downsample.0"}
INSIDE |= {"downsample/norm": "downsample.1"}
LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
HEADS = {"cnn": "classifier.4", "resnet": "fc", "small_vit": "head"}  # by our backbones' modules


class Place(NamedTuple):
    """Where one of our arrays is among the published ones.

    Attributes:
        name: of the published array.
        shape: of it.
        ours: turns it into ours.
    """

    name: str
    shape: tuple[int, ...]
    ours: Callable[[np.ndarray], np.ndarray]


def place(name: str, shape: tuple[int, ...], backbone: str, gated: bool) -> Place:
    """Return the place of one array.

    Args:
        name: of ours.
        shape: of ours.
        backbone: "cnn", "resnet" or "small_vit".
        gated: whether the prompts are added through a gate.
    """
    part, _, rest = name.partition("/")
    module, _, leaf = rest.rpartition("/")
    theirs = f"{_module(part, module, backbone, gated)}{LEAVES.get(leaf, leaf)}"
    if leaf.endswith("_prompt"):
        return Place(f"prompting.{leaf}", (1, shape[2], *shape[:2]), to_hwc)
    if module == "fusion" and leaf == "kernel":
        return Place(theirs, (*shape[::-1], 1, 1), lambda v: v[:, :, 0, 0].T)
    if leaf in ("cls_token", "pos_embed"):
        return Place(leaf, (1, *shape), lambda v: v[0])
    if (projection := module.rpartition("/")[2]) in PROJECTIONS:
        return _fused(theirs, shape, PROJECTIONS.index(projection))
    if module.endswith("attn/out") and leaf == "kernel":
        return Place(theirs, (shape[2], math.prod(shape[:2])), lambda v: v.T.reshape(shape))
    if len(shape) == 4:
        return Place(theirs, tuple(shape[i] for i in (3, 2, 0, 1)), to_hwio)
    return Place(theirs, shape[::-1], lambda v: v.T)


def _fused(theirs: str, shape: tuple[int, ...], number: int) -> Place:
    """Return the place of a projection in the fused one."""
    width = math.prod(shape[-2:])
    rows = slice(number * width, (number + 1) * width)
    whole = (3 * width, width) if len(shape) == 3 else (3 * width,)
    return Place(theirs, whole, lambda v: v[rows].T.reshape(shape))


def _module(part: str, module: str, backbone: str, gated: bool) -> str:
    """Return what stands before the last word of a published name, with its dot."""
    if part == "method":
        if module == "head":
            return f"{HEADS[backbone]}."
        return "prompting.gate.0." if gated else "prompting.fusion_conv."
    layer = re.fullmatch(r"layers/(\d+)(?:/(.*))?", module)
    inside = layer and layer[2]
    if backbone == "cnn":
        if layer:
            number = int(layer[1])
            if number == len(FEATURES):
                return "classifier.1."
            return f"features.{FEATURES[number] + (inside == 'norm')}."
        return {"patch_embed": "features.0.", "patch_norm": "features.1."}[module]
    if backbone == "resnet":
        if layer:
            stage, block = divmod(int(layer[1]), 2)
            return f"layer{stage + 1}.{block}.{INSIDE.get(inside, inside)}."
        return {"patch_embed": "conv1.", "patch_norm": "bn1."}[module]
    if layer:
        inside = re.sub("attn/(query|key|value)", "attn.qkv", inside)
        inside = inside.replace("attn/out", "attn.proj").replace("/", ".")
        return f"blocks.{layer[1]}.{inside}."
    return {"patch_embed": "patch_embed.proj.", "norm": "norm."}.get(module, "")


def to_hwc(value: np.ndarray) -> np.ndarray:
    """Return a prompt 1 C H W as H W C."""
    return value[0].transpose(1, 2, 0)


def to_hwio(value: np.ndarray) -> np.ndarray:
    """Return a kernel O I H W as H W I O."""
    return value.transpose(2, 3, 1, 0)
