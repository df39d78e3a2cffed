"""Models of OpenCLIP whose image encoder is a ViT of timm: SigLIP, EVA-02-CLIP and others.

    visual.trunk.blocks.0.attn.qkv.weight    timm's names behind "visual.trunk."
    visual.head.proj.weight                  OpenCLIP's projection, if "timm_proj" is "linear"
    visual.trunk.head.weight                 timm's head as the projection, if it says nothing

What the encoder is, timm's own reading of the name says (`vpjax.weights.timm`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vpjax.core.errors import UserError
from vpjax.weights import clip_open, timm
from vpjax.weights.clip_names import TRUNK
from vpjax.weights.clip_shapes import Tower
from vpjax.weights.description import WeightsFile

# What timm's ViTs have and `vpjax.backbones.clip.CLIP` usually has not.
TIMMS = {"pre_norm": False, "patch_bias": True, "activation": "gelu", "eps": 1e-6}


def vision(file: WeightsFile) -> Tower:
    """Return what is known of an image encoder of timm.

    Raises: UserError if nothing says which it is, or it is not supported.
    """
    if file.library != "open_clip":
        raise UserError(
            f"weights {file.path}: an OpenCLIP model whose image encoder is one of timm, and "
            f"nothing says which. Put the model's {clip_open.FILE} beside the file."
        )
    path = file.path.parent / clip_open.FILE
    model = clip_open.model_cfg(file.config, path)
    cfg, shapes = model["vision_cfg"], of_trunk(file.shapes)
    name, proj = cfg.get("timm_model_name") or "no model of timm", cfg.get("timm_proj", "linear")
    kind = f"an OpenCLIP model with timm's {name}"
    clip_open.refuse(cfg, "vision_cfg", path)
    pool = cfg.get("timm_pool", "avg")
    if not timm.recognises(shapes) or pool in ("abs_attn", "rot_attn") or proj == "mlp":
        mobile = ", a MobileCLIP" if name.startswith("fastvit") else ""
        raise UserError(
            f"weights {file.path}: {kind}{mobile} (timm_pool {pool!r}, timm_proj {proj!r}), which "
            "is not supported. Choose a model whose image encoder is a plain ViT."
        )
    config = {"architecture": name} | ({"global_pool": pool} if pool else {})
    found = timm.describe(dataclasses.replace(file, shapes=shapes, library="timm", config=config))
    head = {"linear": "visual.head.proj", "none": ""}.get(proj, f"{TRUNK}head")
    width = file.shapes[f"{head}.weight"][0] if head else 0
    bias = f"{head}.bias" in file.shapes
    options = TIMMS | dict(found.options) | {"joint_dim": width, "projection_bias": bias}
    return Tower(kind, options, found.open)


def of_trunk(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the image encoder's arrays, or shapes, by timm's names."""
    return {n.removeprefix(TRUNK): a for n, a in arrays.items() if n.startswith(TRUNK)}


def translate(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return the arrays of an image encoder of timm, and of its projection, by our names."""
    out = timm.translate(of_trunk(arrays), expected)
    for kind in ("kernel", "bias"):
        if f"head/{kind}" in out:
            out[f"projection/{kind}"] = out.pop(f"head/{kind}")
    for name, array in arrays.items():
        if name.startswith("visual.head.proj."):
            out["projection/kernel" if array.ndim == 2 else "projection/bias"] = array.T
        elif not name.startswith(TRUNK):
            out[name if name.startswith("visual.") else f"unused/{name}"] = array
    return out
