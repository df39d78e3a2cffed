"""Names of ResNet files: torchvision's, also below a prefix, and transformers'.

    torchvision     layer3.1.bn2.running_var        layer3.0.downsample.0.weight
    transformers    encoder.stages.2.layers.1.layer.1.normalization.running_var
    ours            layers/8/norm2/var              layers/7/downsample/conv/kernel

timm has torchvision's names, for other networks too: with smoothed strides, without running
averages, with another stem. Its configuration says which one a file is. Without one, the file's
public name or the user must say the variant. MoCo's files hold the encoder twice and projection
heads; the query encoder (v2) or base encoder (v3) is taken, the rest is unused. Kernels are stored
as out in H W.
"""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from vpjax.weights import beside
from vpjax.weights.description import Description, WeightsFile

PREFIX = r"(?:module\.)?(?:encoder_q\.|base_encoder\.)?"
ANCHOR = r"layer1\.0\.conv1\.weight|(resnet\.)?embedder\.embedder\.convolution\.weight"
# Patterns in transformers' names, and their replacements in torchvision's.
TRANSFORMERS = {
    r"^(resnet\.)?embedder\.embedder\.convolution\.": "conv1.",
    r"^(resnet\.)?embedder\.embedder\.normalization\.": "bn1.",
    r"^(resnet\.)?encoder\.stages\.(\d+)\.layers\.": lambda m: f"layer{int(m[2]) + 1}.",
    r"\.shortcut\.convolution\.": ".downsample.0.",
    r"\.shortcut\.normalization\.": ".downsample.1.",
    r"\.layer\.(\d)\.convolution\.": lambda m: f".conv{int(m[1]) + 1}.",
    r"\.layer\.(\d)\.normalization\.": lambda m: f".bn{int(m[1]) + 1}.",
    r"^classifier\.1\.": "fc.",
}
TIMM = (
    r"(tv_|gluon_|ssl_|swsl_|ig_)?"
    r"(resnet(18|26|34|50|101|152|200)(_v1b)?|wide_resnet(50|101)_2|resnext\d+_\d+x\d+d)"
)
# Public names of torchvision's files end in a digest: resnet50-11ad3fa6.pth.
PUBLIC = r"(wide_resnet|resnet|resnext)\d+[\w]*-[0-9a-f]{8}\.pth"
TOP = {"conv1": "patch_embed", "bn1": "patch_norm", "fc": "head"}
BASIC = ("18", "34")
# Variants by depths: of bottlenecks, of basic blocks.
DEPTHS = (
    {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)},
    {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3)},
)
INSIDE = {"bn": "norm", "downsample.0": "downsample/conv", "downsample.1": "downsample/norm"}
NORM = {"weight": "scale", "running_mean": "mean", "running_var": "var"}


def recognises(names: Collection[str]) -> bool:
    """Return whether names are those of a ResNet."""
    return _prefix(names) is not None or is_transformers(names)


def is_transformers(names: Collection[str]) -> bool:
    """Return whether names are those of transformers' ResNet."""
    return any(
        re.fullmatch(r"(resnet\.)?embedder\.embedder\.convolution\.weight", n) for n in names
    )


def describe(file: WeightsFile) -> Description:
    """Return what a file says: widths, depths and options of `vpjax.backbones.resnet`.

    Raises: UserError if its model is not one of ours.
    """
    shapes = {n: v.shape for n, v in translate(beside.stand_ins(file.shapes)).items()}
    config, kind, asked = file.config, "ResNet", ()
    if file.library == "timm":
        beside.timm(file, TIMM, ("block", "cardinality", "base_width"))
        kind = f"timm {config['architecture']}"
    if "patch_norm/mean" not in shapes:
        raise beside.refuse(file, "a ResNet without running averages of its norms")
    if any(re.search(r"\.(se|eca)\.", n) for n in file.shapes):
        raise beside.refuse(file, "a ResNet with attention over channels")
    options = from_shapes(file, shapes) | beside.image_size(file)
    if is_transformers(file.shapes):
        kind = "transformers ResNet"
        if file.library != "transformers":
            asked = ("first_stride", "stride_at", "variant")
        elif config.get("hidden_act", "relu") != "relu":
            raise beside.refuse(file, f"a ResNet with the activation {config['hidden_act']!r}")
        else:
            options["first_stride"] = 2 if config.get("downsample_in_first_stage") else 1
            inner = config.get("downsample_in_bottleneck") and options["variant"] not in BASIC
            options["stride_at"] = "1x1" if inner else "3x3"
    elif not file.library and not re.fullmatch(PUBLIC, file.path.name):
        asked = ("variant",)
        options.pop("variant")
    if shapes["patch_embed/kernel"][0] != 7:  # of small images; its stride and pooling are unknown
        asked += ("stem",)
    return Description(f"a {kind} checkpoint", "resnet.ResNet", options, asked, beside.preset(file))


def from_shapes(file: WeightsFile, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the options that the shapes of arrays show, by our names.

    Raises: UserError if blocks differ in another way than by width.
    """
    _, _, channels, dim = shapes["patch_embed/kernel"]
    counts = [int(n.split("/")[1]) for n in shapes if re.fullmatch(r"layers/\d+/conv1/kernel", n)]
    stages = list(_stages(file.shapes))
    basic = not any("/conv3/" in n for n in shapes)
    first = [sum(stages[:i]) for i in range(len(stages))]
    widths = [shapes[f"layers/{i}/conv1/kernel"][3] for i in first]
    last = "conv2" if basic else "conv3"
    outer = [shapes[f"layers/{i}/{last}/kernel"][3] for i in first]
    expansions = {o / w for o, w in zip(outer, widths, strict=True)}
    if len(counts) != sum(stages) or len(expansions) != 1 or max(expansions) % 1:
        raise beside.refuse(file, "a ResNet whose stages expand channels differently")
    options = {
        "variant": "18" if basic else "50",
        "widths": tuple(widths),
        "depths": tuple(stages),
        "expansion": int(expansions.pop()),
        "stem_dim": dim,
    }
    if not basic:
        options["groups"] = widths[0] // shapes["layers/0/conv2/kernel"][2]
    if channels != 3:
        options["channels"] = channels
    named = {v: n for n, v in DEPTHS[basic].items()}.get(options["depths"])
    return options | ({"variant": named} if named else {})


def translate(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Return a file's arrays by our names; an unknown name stays as it is."""
    inside = torchvision_names(arrays)
    first = list(itertools.accumulate(_stages(arrays), initial=0))
    out = {}
    for name, array in arrays.items():
        ours = our_name(inside[name], first) if name in inside else f"unused/{name}"
        out[ours] = our_layout(array)
    return out


def torchvision_names(names: Collection[str]) -> dict[str, str]:
    """Return torchvision's name for every name of the encoder."""
    if is_transformers(names):
        return {n: _from_transformers(n) for n in names}
    prefix = _prefix(names) or ""
    return {n: n.removeprefix(prefix) for n in names if n.startswith(prefix)}


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
    return (
        NORM.get(leaf, leaf)
        if re.search("norm|grn", module)
        else {"weight": "kernel"}.get(leaf, leaf)
    )


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


def _stages(names: Collection[str]) -> list[int]:
    return depths(torchvision_names(names).values(), r"layer(\d+)\.(\d+)\.")


def _from_transformers(name: str) -> str:
    for pattern, instead in TRANSFORMERS.items():
        name = re.sub(pattern, instead, name)
    return name


def _prefix(names: Collection[str]) -> str | None:
    found = (re.fullmatch(rf"({PREFIX})layer1\.0\.conv1\.weight", n) for n in names)
    return next((m[1] for m in found if m), None)
