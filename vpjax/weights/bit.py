"""Names of Big Transfer's files: Google's npz, timm's and transformers'.

    Google          resnet/block2/unit01/a/proj/standardized_conv2d/kernel    (H W in out, as ours)
    timm            stages.1.blocks.0.downsample.conv.weight
    transformers    encoder.stages.1.layers.0.downsample.conv.weight
    ours            layers/3/downsample/kernel

All are brought to timm's names first. The other networks that timm calls ResNetV2 are refused.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from vpjax.weights import beside
from vpjax.weights.description import Description, WeightsFile
from vpjax.weights.resnet import depths

ANCHOR = (
    r"(resnet/)?root_block/standardized_conv2d/kernel"
    r"|stages\.0\.blocks\.0\.downsample\.conv\.weight"
    r"|(bit\.)?embedder\.convolution\.weight"
)
TIMM = r"resnetv2_\d+x\d_bitm?(_.*)?"
CONV, GROUP = "standardized_conv2d", "group_norm"
# Patterns in other names, and their replacements in timm's.
OTHERS = {
    # Google's
    rf"^(resnet/)?root_block/{CONV}/": "stem.conv.",
    rf"^(resnet/)?{GROUP}/": "norm.",
    r"^(resnet/)?head/conv2d/": "head.fc.",
    r"^(resnet/)?block(\d+)/unit(\d+)/": lambda m: (
        f"stages.{int(m[2]) - 1}.blocks.{int(m[3]) - 1}."
    ),
    rf"\.a/proj/{CONV}/": ".downsample.conv.",
    rf"\.([abc])/{CONV}/": lambda m: f".conv{'abc'.index(m[1]) + 1}.",
    rf"\.([abc])/{GROUP}/": lambda m: f".norm{'abc'.index(m[1]) + 1}.",
    # transformers'
    r"^(bit\.)?embedder\.convolution\.": "stem.conv.",
    r"^(bit\.)?encoder\.stages\.(\d+)\.layers\.": r"stages.\2.blocks.",
    r"^bit\.norm\.": "norm.",
    r"^classifier\.1\.": "head.fc.",
}
TOP = {"stem.conv": "patch_embed", "norm": "norm", "head.fc": "head"}
LEAVES = {"gamma": "scale", "beta": "bias"}


def recognises(names: Collection[str]) -> bool:
    """Return whether names are those of a Big Transfer ResNet, or of a timm ResNetV2."""
    return any(re.fullmatch(ANCHOR, n) for n in names) and any(
        timm_name(n).startswith("stem.conv.") for n in names
    )


def describe(file: WeightsFile) -> Description:
    """Return what a file says: widths and depths of `vpjax.backbones.bit`.

    Raises: UserError if its model is not one of ours.
    """
    config, kind, asked = file.config, "Google BiT", ()
    shapes = {n: v.shape for n, v in translate(beside.stand_ins(file.shapes)).items()}
    options = from_shapes(shapes)
    if any(n.endswith("running_mean") for n in file.shapes):
        raise beside.refuse(file, "a ResNetV2 with batch normalisation")
    if file.library == "timm":
        given = beside.timm(file, TIMM, ("width_factor", "stem_chs", "stem_type"))
        if given.get("stem_type", "fixed") != "fixed":
            raise beside.refuse(file, f"a BiT with stem_type={given['stem_type']!r}")
        kind = f"timm {config['architecture']}"
    elif file.library == "transformers":
        kind = "transformers BiT"
        check_transformers(file)
        options["groups"] = config.get("num_groups", 32)
    elif not any("/" in n for n in file.shapes):
        kind, asked = "BiT", ("variant",)  # names do not say how images are padded
    options |= beside.image_size(file)
    return Description(f"a {kind} checkpoint", "bit.BiT", options, asked, beside.preset(file))


def check_transformers(file: WeightsFile) -> None:
    """Check that a configuration of transformers is of the released form.

    Raises: UserError that names the first key that is not.
    """
    released = {
        "layer_type": "preactivation",
        "hidden_act": "relu",
        "global_padding": None,
        "embedding_dynamic_padding": False,
        "output_stride": 32,
    }
    for key, value in released.items():
        found = file.config.get(key, value)
        if found != value:
            raise beside.refuse(file, f"a BiT with {key}={found!r}")


def from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the options that the shapes of arrays show, by our names."""
    _, _, channels, dim = shapes["patch_embed/kernel"]
    widths, counts = [], []
    for i in range(1 + max(int(n.split("/")[1]) for n in shapes if n.startswith("layers/"))):
        if f"layers/{i}/downsample/kernel" in shapes:
            widths.append(shapes[f"layers/{i}/conv1/kernel"][3])
            counts.append(0)
        counts[-1] += 1
    options = {"widths": tuple(widths), "depths": tuple(counts), "stem_dim": dim}
    return options | ({"channels": channels} if channels != 3 else {})


def translate(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Return a file's arrays by our names; an unknown name stays as it is."""
    theirs = {n: timm_name(n) for n in arrays}
    counts = depths(theirs.values(), r"stages\.(\d+)\.blocks\.(\d+)\.")
    out = {}
    for name, array in arrays.items():
        path, _, leaf = theirs[name].rpartition(".")
        if m := re.fullmatch(
            r"stages\.(\d+)\.blocks\.(\d+)\.(conv\d|norm\d|downsample)(.conv)?", path
        ):
            path = f"layers/{sum(counts[: int(m[1])]) + int(m[2])}/{m[3]}"
        elif path in TOP:
            path = TOP[path]
        else:
            out[name] = array
            continue
        norm = "norm" in path.rpartition("/")[2]
        leaf = LEAVES.get(leaf, leaf)
        leaf = ("scale" if norm else "kernel") if leaf == "weight" else leaf
        out[f"{path}/{leaf}"] = _layout(path, array, in_order="/" in name)
    return out


def timm_name(name: str) -> str:
    """Return timm's name for one of the three."""
    for pattern, instead in OTHERS.items():
        name = re.sub(pattern, instead, name)
    return name


def _layout(path: str, array: np.ndarray, in_order: bool) -> np.ndarray:
    """Return a kernel H W in out, a head in out; Google's axes are in order already."""
    if array.ndim == 4 and not in_order:
        array = array.transpose(2, 3, 1, 0)
    if path == "head" and array.ndim == 4:
        return array[0, 0]
    return array.T if path == "head" and array.ndim == 2 and not in_order else array
