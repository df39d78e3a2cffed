"""Names of ConvNeXt files, versions 1 and 2: as released, of timm, transformers, torchvision.

    released        stages.2.1.pwconv1.weight
    timm            stages.2.blocks.1.mlp.fc1.weight
    transformers    encoder.stages.2.layers.1.pwconv1.weight
    torchvision     features.5.1.block.3.weight
    ours            layers/9/mlp/fc1/kernel             (size T; a downsampling is a layer too)

Other names are brought to the released ones first. Shapes show everything but: the epsilon of
norms, which timm's largest size has another of and transformers' configuration changes for the last
norm, and the activation.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from vpjax.weights import beside
from vpjax.weights.description import Description, WeightsFile
from vpjax.weights.resnet import depths, our_layout, our_leaf

ANCHOR = (
    r"stages\.0\.(blocks\.)?0\.(dwconv|conv_dw)\.weight|features\.1\.0\.layer_scale"
    r"|(convnext(v2)?\.)?encoder\.stages\.0\.layers\.0\.dwconv\.weight"
)
TRANSFORMERS = r"^(convnext(v2)?\.)?"
# Patterns in other names, and their replacements in the released ones.
OTHERS = {
    r"^module\.": "",
    # transformers
    rf"{TRANSFORMERS}embeddings\.patch_embeddings\.": "downsample_layers.0.0.",
    rf"{TRANSFORMERS}embeddings\.layernorm\.": "downsample_layers.0.1.",
    rf"{TRANSFORMERS}encoder\.stages\.(\d+)\.downsampling_layer\.": r"downsample_layers.\3.",
    rf"{TRANSFORMERS}encoder\.stages\.(\d+)\.layers\.": r"stages.\3.",
    rf"{TRANSFORMERS}layernorm\.": "norm.",
    r"\.layernorm\.": ".norm.",
    r"\.layer_scale_parameter$": ".gamma",
    r"^classifier\.(?=weight|bias)": "head.",
    # timm
    r"^stem\.": "downsample_layers.0.",
    r"^stages\.(\d+)\.downsample\.": r"downsample_layers.\1.",
    r"^stages\.(\d+)\.blocks\.": r"stages.\1.",
    r"\.conv_dw\.": ".dwconv.",
    r"^stages\.(.*)\.mlp\.fc([12])\.": r"stages.\1.pwconv\2.",
    r"\.mlp\.grn\.": ".grn.",
    r"^(head\.norm|norm_pre)\.": "norm.",
    r"^head\.pre_logits\.fc\.": "pre_logits.",
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
    # version 2 as released
    r"\.grn\.gamma$": ".grn.weight",
    r"\.grn\.beta$": ".grn.bias",
}
TOP = {"downsample_layers.0.0": "patch_embed", "downsample_layers.0.1": "patch_norm"}
INSIDE = {"dwconv": "conv", "norm": "norm", "grn": "mlp/grn"}
INSIDE |= {"pwconv1": "mlp/fc1", "pwconv2": "mlp/fc2"}
TIMM = (
    r"convnext(v2)?_(atto|femto|pico|nano|tiny|small|base|large|xlarge|xxlarge|huge|large_mlp"
    r"|tiny_hnf)(_384)?(_in22k|_in22ft1k)?|test_convnext[23]?"
)
# Architectures of timm that differ from the others where shapes do not show it.
OTHER_EPS = ("convnext_xxlarge", "test_convnext", "test_convnext2", "test_convnext3")
EPS = 1e-6


def recognises(names: Collection[str]) -> bool:
    """Return whether names are those of a ConvNeXt."""
    return any(re.fullmatch(ANCHOR, n.removeprefix("module.")) for n in names)


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


def describe(file: WeightsFile) -> Description:
    """Return what a file says: widths, depths and options of `vpjax.backbones.convnext`.

    Raises: UserError if its model is not one of ours.
    """
    names = translate(beside.stand_ins(file.shapes))
    shapes = {n: v.shape for n, v in names.items()}
    options, kind = from_shapes(file, shapes), _library(file.shapes)
    if file.library == "timm":
        given = beside.timm(file, TIMM, ("norm_eps", "act_layer"))
        name = str(file.config.get("architecture"))
        act = "gelu_tanh" if name.startswith("test_") else "gelu"
        options["eps"] = given.get("norm_eps") or (1e-5 if name in OTHER_EPS else EPS)
        options["activation"] = beside.activation(file, given.get("act_layer") or act)
    elif file.library == "transformers":
        options |= {"eps": EPS, "pool_eps": file.config.get("layer_norm_eps", 1e-12)}
        options["activation"] = beside.activation(file, file.config.get("hidden_act", "gelu"))
    elif kind in ("released", "torchvision"):
        options |= {"eps": EPS, "activation": "gelu"}
    asked = ("eps", "activation") + (("pool_eps",) if kind == "transformers" else ())
    return Description(
        f"a {kind} ConvNeXt{' v2' if options['grn'] else ''} checkpoint",
        "convnext.ConvNeXt",
        options | beside.image_size(file),
        open=tuple(key for key in asked if key not in options),
        preset=beside.preset(file),
    )


def from_shapes(file: WeightsFile, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the options that the shapes of arrays show, by our names.

    Raises: UserError for another stem.
    """
    stem = shapes.get("patch_embed/kernel", ())
    if len(stem) != 4 or stem[:2] != (4, 4) or "patch_norm/scale" not in shapes:
        raise beside.refuse(file, "a ConvNeXt with another stem than patches of 4x4 pixels")
    dims, depths = [stem[3]], [0]
    for i in range(1 + max(int(n.split("/")[1]) for n in shapes if n.startswith("layers/"))):
        if f"layers/{i}/mlp/fc1/kernel" in shapes:
            depths[-1] += 1
        else:
            dims.append(shapes[f"layers/{i}/conv/kernel"][3])
            depths.append(0)
    options = {
        "dims": tuple(dims),
        "depths": tuple(depths),
        "grn": "layers/0/mlp/grn/scale" in shapes,
        "norm_first": any(n.startswith("norm_pre.") for n in file.shapes),
    }
    options["layer_scale"] = EPS if "layers/0/gamma" in shapes else 0.0
    if "pre_logits/kernel" in shapes:
        options["pre_logits"] = shapes["pre_logits/kernel"][1]
    if stem[2] != 3:
        options["channels"] = stem[2]
    return options


def _library(names: Collection[str]) -> str:
    if any(".dwconv." in n for n in names):
        return "transformers" if any("encoder.stages." in n for n in names) else "released"
    return "torchvision" if any(n.startswith("features.") for n in names) else "timm"


def released_name(name: str) -> str:
    """Return the released name, such as "stages.2.1.pwconv1.weight", for any of the three."""
    for pattern, instead in OTHERS.items():
        name = re.sub(pattern, instead, name)
    return name


def our_name(name: str, first: Sequence[int]) -> str:
    """Return our name for a released one; layer `first[s]` is the first block of stage s."""
    path, _, leaf = name.rpartition(".")
    if path in ("norm", "head", "pre_logits"):
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
    """Drop the axes of length 1 of files that store matrices as convolutions."""
    if ours.endswith("/gamma") or "/grn/" in ours:
        return array.reshape(-1)
    return array.reshape(array.shape[:2]) if "/mlp/" in ours and array.ndim == 4 else array
