"""Configurations as libraries write them beside weights, and images to try them on."""

import numpy as np
from sklearn.datasets import load_sample_image

HALF, IMAGENET = [0.5, 0.5, 0.5], ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


def images() -> dict[str, np.ndarray]:
    """Returns photos, uint8 H W C, of even and odd sizes, one upright, one smaller than a model."""
    china, flower = load_sample_image("china.jpg"), load_sample_image("flower.jpg")
    return {
        "china": china,
        "flower": flower,
        "odd": china[:201, 3:336],
        "upright": flower[10:343, 200:317],
        "small": flower[150:171, 300:337],
    }


def places(count: int) -> np.ndarray:
    """Returns which numbers of a flattened input are recorded."""
    return np.random.default_rng(count).choice(count, 24, replace=False)


def timm(size: int, mean=HALF, std=HALF, **own):
    cfg = {"mean": list(mean), "std": list(std), "input_size": [3, size, size]} | own
    return "timm", {"architecture": "vit_base_patch16_224", "pretrained_cfg": cfg}, {}, size


def clip(size: int, **own):
    config = {"model_cfg": {"embed_dim": 512}}
    return "open_clip", config | ({"preprocess_cfg": own} if own else {}), {}, size


def hf(pixels: int, kind: str, mean=HALF, std=HALF, **own):
    cfg = {"image_processor_type": kind, "image_mean": list(mean), "image_std": list(std)}
    return "transformers", {"model_type": "vit"}, cfg | own, pixels


def edge(size: int) -> dict:
    return {"height": size, "width": size}


CASES = {
    # timm: crop shares as of augreg, dinov2, convnext, resnet a1, eva02, lanczos
    "timm.augreg": timm(64, interpolation="bicubic", crop_pct=0.9, crop_mode="center"),
    "timm.default_crop": timm(56, *IMAGENET, interpolation="bilinear"),
    "timm.whole": timm(70, *IMAGENET, interpolation="bicubic", crop_pct=1.0),
    "timm.resnet": timm(97, *IMAGENET, interpolation="bicubic", crop_pct=0.95),
    "timm.squash": timm(64, *CLIP, interpolation="bicubic", crop_pct=0.94, crop_mode="squash"),
    "timm.squash_whole": timm(65, *CLIP, interpolation="bicubic", crop_pct=1.0, crop_mode="squash"),
    "timm.lanczos": timm(63, *IMAGENET, interpolation="lanczos", crop_pct=0.96),
    # open_clip
    "open_clip.default": clip(64),
    "open_clip.laion": clip(65, mean=HALF, std=HALF, interpolation="bicubic"),
    "open_clip.siglip": clip(
        56, mean=HALF, std=HALF, interpolation="bicubic", resize_mode="squash"
    ),
    "open_clip.bilinear": clip(62, interpolation="bilinear", resize_mode="shortest"),
    "open_clip.random": clip(62, interpolation="random", resize_mode="squash"),
    # transformers
    "hf.vit": hf(64, "ViTImageProcessor", size=edge(64), resample=2, do_resize=True),
    "hf.vit_fast": hf(57, "ViTImageProcessorFast", *IMAGENET, size=edge(57), resample=3),
    "hf.deit": hf(
        65, "DeiTImageProcessor", *IMAGENET, size=edge(74), crop_size=edge(65), resample=3
    ),
    "hf.beit": hf(
        64,
        "BeitImageProcessor",
        size=edge(73),
        crop_size=edge(64),
        do_center_crop=True,
        do_reduce_labels=False,
        resample=3,
    ),
    "hf.clip": hf(
        64,
        "CLIPImageProcessor",
        *CLIP,
        size={"shortest_edge": 64},
        crop_size=edge(64),
        resample=3,
        do_convert_rgb=True,
    ),
    "hf.dinov2": hf(
        65,
        "BitImageProcessor",
        *IMAGENET,
        size={"shortest_edge": 74},
        crop_size=edge(65),
        resample=3,
        rescale_factor=0.00392156862745098,
    ),
    "hf.convnext": hf(
        63,
        "ConvNextImageProcessor",
        *IMAGENET,
        size={"shortest_edge": 63},
        crop_pct=0.875,
        resample=3,
    ),
    "hf.convnext_384": hf(
        384, "ConvNextImageProcessor", *IMAGENET, size={"shortest_edge": 384}, resample=2
    ),
    "hf.siglip": hf(64, "SiglipImageProcessor", size=edge(64), resample=3),
    "hf.dinov3": hf(64, "DINOv3ViTImageProcessorFast", *IMAGENET, size=edge(64), resample=2),
    "hf.other_range": hf(
        64,
        "ViTImageProcessor",
        size=edge(64),
        resample=1,
        rescale_factor=2 / 255,
        do_rescale=True,
    ),
    "hf.not_rescaled": hf(
        64,
        "ViTImageProcessor",
        [127.5] * 3,
        [127.5] * 3,
        size=edge(64),
        do_rescale=False,
        resample=2,
    ),
    "hf.not_normalised": hf(64, "ViTImageProcessor", size=edge(64), do_normalize=False, resample=3),
}

# Operations of RandAugment: our name and timm's.
NAMES = {
    "auto_contrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
    "rotate": "Rotate",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize_add": "SolarizeAdd",
    "color": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}
# timm's name, level from 0 to 1, sign
OPERATIONS = {
    f"{ours},{level},{sign}": (theirs, level, sign)
    for ours, theirs in NAMES.items()
    for level in (0.3, 0.9)
    for sign in (1, -1)
}
