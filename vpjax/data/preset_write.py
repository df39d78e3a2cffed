"""Writes preprocessing as the configurations of timm and transformers; the way back of
`vpjax.data.preset_config`, which reads them.
"""

import math
from typing import Any

from vpjax.core.size import Size, pair
from vpjax.data.fields import Preset
from vpjax.data.preset_config import KINDS, RESAMPLE, fields_of

NAMES = {ours: theirs for theirs, ours in KINDS.items()}
NUMBERS = {name: number for number, name in RESAMPLE.items()}


def timm_fields(chosen: Preset) -> dict[str, Any] | None:
    """Return what timm's `pretrained_cfg` says of a preset; None if it has no words for it."""
    if chosen.resize not in NAMES or chosen.rule == "none":
        return None
    share = chosen.short[1] / chosen.short[0] if chosen.rule != "stretch" else 1.0
    out = {
        "mean": list(chosen.mean),
        "std": list(chosen.std),
        "interpolation": NAMES[chosen.resize],
        "crop_pct": share,
        "crop_mode": "center" if chosen.rule == "short" else "squash",
    }
    return out if _same(chosen, fields_of("timm", {"pretrained_cfg": out}, {})) else None


def transformers_fields(chosen: Preset, size: Size) -> dict[str, Any] | None:
    """Return preprocessor_config.json of transformers for a preset; None: it has no words for it.

    Args:
        chosen: the preset.
        size: of the model's images.
    """
    if chosen.resize not in NAMES or chosen.rule not in ("stretch", "short"):
        return None
    height, width = pair(size)
    out = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": NUMBERS[NAMES[chosen.resize]],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(chosen.mean),
        "image_std": list(chosen.std),
    }
    if chosen.rule == "short":
        edge = math.floor(height * chosen.short[0] / chosen.short[1])
        out |= {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": edge}}
        out |= {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
    return out if _same(chosen, fields_of("transformers", {}, out)) else None


def _same(chosen: Preset, found: Preset | None) -> bool:
    """Return whether both prepare images in the same way, but for where an odd pixel is cut."""
    if found is None or (found.resize, found.rule) != (chosen.resize, chosen.rule):
        return False
    near = lambda a, b: all(math.isclose(x, y, rel_tol=1e-9) for x, y in zip(a, b, strict=True))  # noqa: E731
    shares = [preset.short[1] / preset.short[0] for preset in (chosen, found)]
    colours = near(chosen.mean, found.mean) and near(chosen.std, found.std)
    return colours and math.isclose(*shares, rel_tol=1e-2)
