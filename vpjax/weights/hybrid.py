"""Names of files of a ResNet and a ViT: Google's npz and timm's.

    Google    block2/unit1/conv_proj/kernel                                (H W in out, as ours)
    timm      patch_embed.backbone.stages.1.blocks.0.downsample.conv.weight
    ours      patch_embed/blocks/3/downsample/kernel

The names of the ViT are those of `vpjax.weights.google` and `vpjax.weights.timm`. Google's program
and timm's differ: in the form of gelu, in the epsilon of group normalisation (1e-6 and 1e-5) and in
that of kernels (1e-5 beside the standard deviation, 1e-8 beside the variance). A file is computed
as by the program whose names it has.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from vpjax.weights import beside, google, timm
from vpjax.weights.description import Description, WeightsFile
from vpjax.weights.resnet import depths

TIMM_ROOT = "patch_embed.backbone."
GOOGLE_ROOT = re.compile(r"(opt/target/|params/)?((conv_root|gn_root|block\d+)/.*)")
ANCHOR = r"patch_embed\.backbone\.stem\.conv\.weight|conv_root/kernel"
NAMES = r"vit_(tiny_r_s16_p8|(small|base)_r26_s32|base_r50_s16|large_r50_s32)_\d+(_in21k)?"
OLD_NAMES = r"vit_base_resnet50_\d+(_in21k)?"
HEAD = 64  # width of an attention head in all these architectures
EPSILONS = {
    "timm": {"group_eps": 1e-5, "var_eps": 1e-8, "std_eps": 0.0},
    "Google": {"group_eps": 1e-6, "var_eps": 0.0, "std_eps": 1e-5},
}
# Patterns in Google's names, and their replacements in timm's.
OTHERS = {
    r"^conv_root/": "stem.conv.",
    r"^gn_root/": "stem.norm.",
    r"^block(\d+)/unit(\d+)/": lambda m: f"stages.{int(m[1]) - 1}.blocks.{int(m[2]) - 1}.",
    r"\.conv_proj/": ".downsample.conv.",
    r"\.gn_proj/": ".downsample.norm.",
    r"\.conv(\d)/": r".conv\1.",
    r"\.gn(\d)/": r".norm\1.",
}
BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.(conv\d|norm\d|downsample\.(?:conv|norm))")
INSIDE = {"downsample.conv": "downsample", "downsample.norm": "downsample_norm"}


def recognises(names: Collection[str]) -> bool:
    """Return whether names are those of a ResNet and a ViT."""
    of_vit = google.recognises([n for n in names if not GOOGLE_ROOT.fullmatch(n)])
    of_vit = of_vit or timm.recognises(names)
    return of_vit and any(re.search(rf"(^|/)({ANCHOR})$", n) for n in names)


def describe(file: WeightsFile) -> Description:
    """Return what a file says: the ResNet, and the options of the ViT after it.

    Raises: UserError if its model is not one of ours.
    """
    of_timm = any(n.startswith(TIMM_ROOT) for n in file.shapes)
    whose = "timm" if of_timm else "Google"
    rest = {n: s for n, s in file.shapes.items() if root_name(n) is None}
    shapes = {n: v.shape for n, v in translate(beside.stand_ins(file.shapes), {}).items()}
    options, asked = from_shapes(shapes) | EPSILONS[whose], ()
    stride = 4 << max(len(options["stage_depths"]) - 1, 0)
    if of_timm:
        body = timm.options_of(rest)
        own, asked = of_timm_s_configuration(file, body["dim"])
        resample = "bicubic"
    else:
        found = google.describe(dataclasses.replace(file, shapes=rest, library="", config={}))
        body, asked, resample = dict(found.options), found.open, found.resample
        own = {"activation": "gelu_tanh"}  # flax's gelu, unless told otherwise
    body |= {"patch_size": stride * body["patch_size"]}
    if "image_size" in body:
        body["image_size"] *= stride
    body.pop("channels", None)
    return Description(
        f"a {whose} hybrid of ResNet and ViT",
        "hybrid.Hybrid",
        body | options | own,
        tuple(asked),
        beside.preset(file),
        resample,
    )


def of_timm_s_configuration(file: WeightsFile, dim: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the options that timm's configuration says, and those that nothing says.

    Raises: UserError if it is of another architecture.
    """
    if file.library != "timm":
        return {}, ("heads", "eps", "activation", "pool")
    given = beside.timm(file, f"{NAMES}|{OLD_NAMES}", pool="token")
    heads = given.get("num_heads") or dim // HEAD
    own = {"heads": heads, "eps": 1e-6, "activation": "gelu", "pool": "token"}
    return own | beside.image_size(file), ()


def from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the options of the ResNet that the shapes of arrays show, by our names."""
    _, _, channels, dim = shapes["patch_embed/conv/kernel"]
    widths, counts = [], []
    blocks = {int(n.split("/")[2]) for n in shapes if n.startswith("patch_embed/blocks/")}
    for i in sorted(blocks):
        if f"patch_embed/blocks/{i}/downsample/kernel" in shapes:
            widths.append(shapes[f"patch_embed/blocks/{i}/conv1/kernel"][3])
            counts.append(0)
        counts[-1] += 1
    options = {"stage_depths": tuple(counts), "stage_widths": tuple(widths), "stem_dim": dim}
    return options | ({"channels": channels} if channels != 3 else {})


def translate(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return a file's arrays by our names; an unknown name stays as it is."""
    root = {n: short for n in arrays if (short := root_name(n)) is not None}
    counts = depths(root.values(), r"stages\.(\d+)\.blocks\.(\d+)\.")
    rest = {n: a for n, a in arrays.items() if n not in root}
    form = timm if any(n.startswith(TIMM_ROOT) for n in arrays) else google
    out = {_project(n): a for n, a in form.translate(rest, expected).items()}
    for name, short in root.items():
        path, _, leaf = short.rpartition(".")
        if m := BLOCK.fullmatch(path):
            number = sum(counts[: int(m[1])]) + int(m[2])
            path = f"blocks/{number}/{INSIDE.get(m[3], m[3])}"
        elif path in ("stem.conv", "stem.norm"):
            path = path.removeprefix("stem.")
        else:
            out[name] = arrays[name]
            continue
        array = arrays[name]
        if leaf == "weight":
            leaf = "scale" if "norm" in path else "kernel"
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        out[f"patch_embed/{path}/{leaf}"] = array.reshape(-1) if "norm" in path else array
    return out


def root_name(name: str) -> str | None:
    """Return timm's name of an array within the ResNet; None for the ViT's arrays."""
    if name.startswith(TIMM_ROOT):
        return name.removeprefix(TIMM_ROOT)
    m = GOOGLE_ROOT.fullmatch(name)
    if m is None:
        return None
    name = m[2]
    for pattern, instead in OTHERS.items():
        name = re.sub(pattern, instead, name)
    return name.replace("/", ".")


def head_problem(names: Collection[str], expected: Mapping[str, Any]) -> str:
    """Return why a file's classifier does not suit the model's features; "" if it does."""
    return google.head_problem(names, expected)


def _project(name: str) -> str:
    return re.sub(r"^patch_embed/(kernel|bias)$", r"patch_project/\1", name)
