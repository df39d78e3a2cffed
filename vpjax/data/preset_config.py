"""Reads preprocessing from the configuration beside a file of weights.

    timm            config.json, pretrained_cfg: mean, std, interpolation, crop_pct, crop_mode
    transformers    preprocessor_config.json: size, crop_size, resample, image_mean, image_std, do_*
    open_clip       open_clip_config.json, preprocess_cfg: mean, std, interpolation, resize_mode

Shares are kept, not sizes: weights made for 224 pixels of a side of 256 take 7/8 of the side at any
size. Pixels equal those of timm, of open_clip, and of transformers' Pillow processors. What changes
pixels and is not done here makes the preprocessing unknown, and a warning says why.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from vpjax.data.fields import Preset

log = logging.getLogger(__name__)

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
KINDS = {"bilinear": "pil_bilinear", "bicubic": "pil_bicubic", "lanczos": "pil_lanczos"}
RESAMPLE = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
TIMM_CROP = 0.875  # where a configuration of timm does not say it

# What each processor of transformers does where its file does not say it.
_SQUARE, _SHORT = {"height": 224, "width": 224}, {"shortest_edge": 224}
_COMMON = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
_HALF = {"image_mean": HALF[0], "image_std": HALF[1], "resample": 3}
_CLIP = {"image_mean": CLIP[0], "image_std": CLIP[1], "resample": 3}
_CROPPED = {"size": _SHORT, "crop_size": 224, "do_center_crop": True}
_DINO = {"image_mean": IMAGENET[0], "image_std": IMAGENET[1], "resample": 2, "size": _SQUARE}
PROCESSORS = {
    "ViT": _HALF | {"size": _SQUARE, "resample": 2},
    "DeiT": _HALF | _CROPPED | {"size": {"height": 256, "width": 256}},
    "Beit": _HALF | {"size": _SQUARE, "crop_size": 224},
    "Siglip": _HALF | {"size": _SQUARE},
    "CLIP": _CLIP | _CROPPED,
    "Bit": _CLIP | _CROPPED,
    "ConvNext": _HALF | {"size": {"shortest_edge": 384}, "crop_pct": 224 / 256},
    "DINOv3ViT": _DINO,
}
SHORTEST = ("CLIP", "Bit", "ConvNext")  # an edge alone is that of the shorter side
DONE = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
HARMLESS = ("do_convert_rgb", "do_reduce_labels")
NEUTRAL = (None, False, 0, {}, [])
OTHER_KEYS = ("reducing_gap", "max_num_patches", "patch_size", "size_divisor", "rescale_offset")
OTHER_KEYS += ("offset", "pad_size", "num_crops", "use_square_size")


class _NotDone(Exception):
    """Something in a configuration that changes pixels and that vpjax does not do."""


def fields_of(
    library: str, config: Mapping[str, Any], processor: Mapping[str, Any]
) -> Preset | None:
    """Return the preset, without a name, that a configuration describes; see `preset_from`."""
    try:
        return _sound(_fields_of(library, config, processor))
    except _NotDone as e:
        reason = f"has {e}, which vpjax does not do"
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as e:
        reason = f"is damaged ({type(e).__name__}: {e})"
    log.warning(
        "the preprocessing beside the weights %s; name a preset (data.preset) that comes near it",
        reason,
    )
    return None


def _fields_of(library, config, processor):
    if library == "timm":
        return _timm(config.get("pretrained_cfg") or config)
    if library == "open_clip":
        return _open_clip(config.get("preprocess_cfg") or {})
    return _transformers(processor) if processor else None


def _sound(found: Preset | None) -> Preset | None:
    """Return a preset whose numbers are such that every image stays one."""
    if found is not None:
        good = all(map(math.isfinite, (*found.mean, *found.std, *found.short)))
        if not good or min(*found.std, *found.short) <= 0:
            raise ValueError(f"mean {found.mean}, std {found.std}, crop {found.short}")
    return found


def _timm(cfg: Mapping[str, Any]) -> Preset | None:
    if not cfg.get("mean") or not cfg.get("std"):
        return None
    mode, share = cfg.get("crop_mode") or "center", cfg.get("crop_pct") or TIMM_CROP
    if mode not in ("center", "squash"):
        raise _NotDone(f"crop_mode={mode!r}")
    kind = _kind("interpolation", cfg.get("interpolation") or "bicubic")
    rule = "short" if mode == "center" else "stretch" if share == 1 else "squash"
    short = (1, 1) if share == 1 else (1, share)
    return Preset("", _three(cfg["mean"]), _three(cfg["std"]), kind, rule, short)


def _open_clip(cfg: Mapping[str, Any]) -> Preset:
    mode, interpolation = cfg.get("resize_mode") or "shortest", cfg.get("interpolation")
    if mode not in ("shortest", "squash"):
        raise _NotDone(f"resize_mode={mode!r}")
    # Its "random" is bicubic where nothing is trained.
    kind = _kind("interpolation", "bilinear" if interpolation == "bilinear" else "bicubic")
    mean, std = _three(cfg.get("mean") or CLIP[0]), _three(cfg.get("std") or CLIP[1])
    return Preset("", mean, std, kind, "short" if mode == "shortest" else "stretch")


def _transformers(processor: Mapping[str, Any]) -> Preset:
    named = processor.get("image_processor_type") or processor.get("feature_extractor_type") or ""
    own = named
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        own = own.removesuffix(ending)
    if own not in PROCESSORS:
        raise _NotDone(f"image_processor_type={named!r}")
    cfg = _COMMON | PROCESSORS[own] | {k: v for k, v in processor.items() if v is not None}
    for key, value in cfg.items():
        unknown = key.startswith("do_") and key not in (*DONE, *HARMLESS)
        if (unknown or key in OTHER_KEYS) and value not in NEUTRAL:
            raise _NotDone(f"{key}={value!r}")
    mean, std = _normalisation(cfg)
    if not cfg["do_resize"]:
        if cfg.get("do_center_crop"):
            raise _NotDone("do_center_crop without do_resize")
        return Preset("", mean, std, None, "none")
    kind = _kind("resample", RESAMPLE.get(cfg["resample"], cfg["resample"]))
    if own == "DINOv3ViT":  # resizes numbers that are no longer whole
        if kind != "pil_bilinear":
            raise _NotDone(f"resample={cfg['resample']} of unrounded numbers")
        kind = "float_bilinear"
    rule, short, offset = _geometry(cfg, own)
    return Preset("", mean, std, kind, rule, short, offset=offset)


def _geometry(cfg: Mapping[str, Any], own: str) -> tuple[str, tuple[int | float, int | float], str]:
    """Return `Preset`'s rule, short and offset."""
    size = cfg["size"]
    if isinstance(size, int):
        size = {"shortest_edge": size} if own in SHORTEST else {"height": size, "width": size}
    if isinstance(size, Sequence):
        size = dict(zip(("height", "width"), size, strict=True))
    size = {k: v for k, v in size.items() if v is not None}
    crop = cfg.get("crop_size") if cfg.get("do_center_crop") else None
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    if crop and crop["height"] != crop["width"]:
        raise _NotDone(f"crop_size={crop!r}")
    if size.keys() == {"shortest_edge"}:
        edge = size["shortest_edge"]
        if own == "ConvNext" and not crop:
            cropped = edge < 384  # larger ones are stretched
            return (
                ("short", (1, cfg["crop_pct"]), "down") if cropped else ("stretch", (1, 1), "even")
            )
        if own == "ConvNext" or not crop or crop["height"] > edge:
            raise _NotDone(f"size={size!r} with do_center_crop={bool(crop)}")
        whole = crop["height"] == edge
        return "short", (1, 1) if whole else (edge, crop["height"]), "down"
    if size.keys() != {"height", "width"}:
        raise _NotDone(f"size={size!r}")
    edge = size["height"]
    if not crop or crop["height"] == edge == size["width"]:
        return "stretch", (1, 1), "even"
    if size["width"] != edge or crop["height"] > edge:
        raise _NotDone(f"size={size!r} with crop_size={crop!r}")
    return "squash", (edge, crop["height"]), "down"


def _normalisation(cfg: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std for values from 0 to 1, whatever the range that is normalised."""
    mean, std = _three(cfg["image_mean"]), _three(cfg["image_std"])
    if not cfg["do_normalize"]:
        mean, std = (0.0,) * 3, (1.0,) * 3
    top = 255 * cfg["rescale_factor"] if cfg["do_rescale"] else 255.0  # what white becomes
    if abs(top - 1) < 1e-6:
        return mean, std
    return tuple(m / top for m in mean), tuple(s / top for s in std)


def _kind(key: str, name: Any) -> str:
    if name not in KINDS:
        raise _NotDone(f"{key}={name!r}")
    return KINDS[name]


def _three(values: int | float | Sequence[int | float]) -> tuple[float, float, float]:
    values = [values] if isinstance(values, int | float) else list(values)
    if len(values) not in (1, 3):
        raise _NotDone(f"mean or std of {len(values)} channels")
    return tuple(float(v) for v in (values * 3 if len(values) == 1 else values))
