"""CLIP's files as a format of weights: of the Hugging Face hub, of OpenAI, of OpenCLIP.

Names are those of `vpjax.weights.clip_names`, options those of `vpjax.weights.clip_config`. What
belongs to the other tower goes to "unused/"; a name that belongs to neither stays as it is, so that
the loader reports it. OpenAI's `.pt` files are programs, of which the
arrays are read and nothing is run.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vpjax.core.errors import UserError
from vpjax.data import transforms
from vpjax.weights import clip_config, clip_names, clip_trunk
from vpjax.weights.clip_names import TEXT, VISION
from vpjax.weights.description import Description, WeightsFile

ANCHOR, recognises = clip_names.ANCHOR, clip_names.recognises


def describe(file: WeightsFile) -> Description:
    """Return the image encoder of a CLIP as its file and configuration describe it.

    Raises: UserError if there is none, or one that is not supported.
    """
    found = clip_config.vision_of(file)
    if found is None:
        raise UserError(
            f"weights {file.path}: a CLIP's text encoder without an image encoder. Give the file "
            "of a whole CLIP, or of its image encoder."
        )
    # In words that `vit.ViT` has too.
    options = {"pre_norm": True, "patch_bias": False} | found.options
    options["projection_dim"] = options.pop("joint_dim")
    # Each library's own rule for positions of another image size.
    rule = "bicubic_no_antialias" if file.library == "transformers" else "bicubic"
    preset = _preset(file, found)
    return Description(found.kind, "clip.CLIP", options, found.open, preset, rule)


def _preset(file: WeightsFile, found: clip_config.Tower) -> transforms.Preset | None:
    """Return the preprocessing that the configuration says, or that its absence means."""
    if file.library == "open_clip" or file.processor:
        return transforms.preset_from(file.library, file.config, file.processor)
    usual = file.library == "transformers" or not found.open  # of OpenAI's models and copies
    return transforms.PRESETS["clip"] if usual else None


def translate(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any], tower: str = VISION
) -> dict[str, np.ndarray]:
    """Return the arrays of `tower` by our names; heads are split as in `expected`."""
    if tower == VISION and any(n.startswith(clip_names.TRUNK) for n in arrays):
        return clip_trunk.translate(arrays, expected)
    norm = "fc_norm/" if "fc_norm/scale" in expected else "norm/"
    out = {}
    for name, array in clip_names.to_hub(arrays).items():
        found = clip_names.our_name(name)
        if found is None:
            out[f"unused/{name}" if clip_names.is_scalar(name) else name] = array
        elif found[0] != tower:
            out[f"unused/{name}"] = array
        else:
            ours = f"{norm}{found[1][5:]}" if found[1].startswith("norm/") else found[1]
            out[ours] = _our_layout(ours, array, expected.get(ours))
    return out


def _our_layout(ours: str, array: np.ndarray, like: Any | None) -> np.ndarray:
    """Turn (out, in) to (in, out); what does not fit stays, for the error message."""
    if ours == "cls_token":
        return array.reshape(1, -1)
    if ours.endswith("kernel"):
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T  # p p C D, or in out
    if "/attn/" not in ours or like is None or like.size != array.size:
        return array
    return array.reshape(like.shape)


__all__ = ["ANCHOR", "TEXT", "VISION", "describe", "recognises", "translate"]
