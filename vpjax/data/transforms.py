"""Preprocessing by name, one preset for each published recipe that results are compared with.

Work is split where the size of the data changes. Photos are resized and cropped on the host and
stay uint8; everything else happens inside the jitted step, on the whole batch:

    host    photo H W C --resize, crop--> uint8 size size C     (small equal-sized images: nothing)
    device  uint8 B h w C --resize, pad_crop, rotate, flip--> grey to RGB --> (x / 255 - mean) / std
                                                   (or grey stays, for models of one channel)

One exception: legacy_bilinear must not round, so a photo resized that way leaves the host as
float32 in 0..255, at four times the size.
Results of different presets do not belong in one table.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vpjax.core.errors import unknown
from vpjax.data.augment import DEVICE_OPS
from vpjax.data.augment_host import HOST_OPS
from vpjax.data.fields import Preset
from vpjax.data.preset_config import CLIP, HALF, IMAGENET, fields_of
from vpjax.data.preset_text import preset_of_text

PRESETS = {
    preset.name: preset
    for preset in (
        # VPT, VTAB-1k (KMnP/vpt), and methods that build on its TFDS loader
        Preset("vpt_vtab", *IMAGENET, "legacy_bilinear"),
        # VPT, FGVC: short side 256 for 224, 438 for 384, 512 for 448; by that rule, 256 / 224 of
        # the crop rounded down, also for other crops, where the published code fails
        Preset("vpt_fgvc", *IMAGENET, "pil_bilinear", "short", (8, 7), ("random_crop", "flip")),
        # SSF with --direct-resize --no-aug
        Preset("ssf_vtab", *HALF, "pil_bicubic"),
        # NOAH with direct resize, FacT
        Preset("noah_vtab", *IMAGENET, "pil_bicubic"),
        # Binary Adapter's "unnormalised"
        Preset("raw_vtab", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "pil_bicubic"),
        # SA2VP
        Preset("sa2vp_vtab", *HALF, "pil_bilinear"),
        Preset("sa2vp_fgvc", *HALF, "pil_bilinear", "short", (8, 7), ("random_crop", "flip")),
        # What the Google ViT files were trained with: the choice for new experiments
        Preset("inception", *HALF, "pil_bilinear"),
        Preset("inception_crop", *HALF, "pil_bilinear", "short", (8, 7), ("random_crop", "flip")),
        # What MAE, MoCo v3, Swin and convolutional networks were trained with, as inception above
        Preset("imagenet", *IMAGENET, "pil_bicubic"),
        Preset("imagenet_crop", *IMAGENET, "pil_bicubic", "short", (8, 7), ("random_crop", "flip")),
        # SigLIP
        Preset("siglip", *HALF, "pil_bicubic"),
        # MoP-CLIP and zero-shot CLIP
        Preset("clip", *CLIP, "pil_bicubic", "short"),
        # MS-VP
        Preset("msvp_mnist", *HALF, rule="none", augment=("pad_crop", "rotate")),
        Preset(
            "msvp_cifar",
            (0.4914, 0.4822, 0.4465),
            (0.2470, 0.2435, 0.2616),
            rule="none",
            augment=("pad_crop", "flip"),
        ),
        # ViT-B/4 on CIFAR-10; its standard deviations are another estimate
        Preset(
            "vitb4_cifar",
            (0.4914, 0.4822, 0.4465),
            (0.2023, 0.1994, 0.2010),
            rule="none",
            augment=("pad_crop", "flip"),
        ),
        # The bundled 8x8 digits
        Preset("digits", *HALF, "pil_bilinear"),
    )
}


# Names for what configurations describe, where it is the same; other presets belong to a recipe.
GENERAL = ("inception", "imagenet", "siglip", "clip")


def preset(name: str | Preset) -> Preset:
    """Return a preset by name or by its fields, "bicubic,crop=0.9,mean=0.5,std=0.5".

    Raises: UserError with the nearest name, or what is wrong with the fields.
    """
    if isinstance(name, Preset):
        return name
    if name in PRESETS:
        return PRESETS[name]
    if "," in name or "=" in name:
        return with_name(preset_of_text(name, preset))
    raise unknown("preset", name, PRESETS)


def preset_from(
    library: str, config: Mapping[str, Any], processor: Mapping[str, Any]
) -> Preset | None:
    """Return the preprocessing that the configuration beside a file of weights describes.

    Args:
        library: "timm", "transformers" or "open_clip": whose configuration it is; "": nobody's.
        config: that configuration.
        processor: preprocessor_config.json of transformers; {}: none.

    Returns:
        The preset; None if nothing describes it, or, with a warning in the log, if it has something
        that vpjax does not do.
    """
    found = fields_of(library, config, processor)
    return with_name(found) if found is not None else None


def with_augment(chosen: Preset, augment: str) -> Preset:
    """Return a preset with further random operations of training.

    Args:
        chosen: the preset.
        augment: operations such as "random_resized_crop=0.35/1,flip"; "": none.

    Raises:
        UserError: for an operation that does not exist.
    """
    if not augment:
        return chosen
    for word in augment.split(","):
        name = word.strip().partition("=")[0]
        if name not in (*HOST_OPS, *DEVICE_OPS):
            raise unknown("data.augment", name, (*HOST_OPS, *DEVICE_OPS))
    return preset(f"{chosen.name},{augment}")


def with_name(chosen: Preset) -> Preset:
    """Return the preset of the same fields that has a name of its own, or `chosen`."""
    same = (p for p in map(PRESETS.get, GENERAL) if dataclasses.replace(p, name="") == chosen)
    return next(same, chosen)
