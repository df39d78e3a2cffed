"""Weights that can be named instead of downloaded by hand: name -> file, address, preprocessing.

The original ImageNet-21k files belong to the ViT paper (Dosovitskiy et al. 2020, arXiv 2010.11929).
The AugReg files (Steiner et al. 2021, arXiv 2106.10270) are the best of each size by upstream
validation accuracy: the table of recommended checkpoints in google-research/vision_transformer.
timm's AugReg models of B/32, S/32 and L/16 come from other files of the same sweep, so their
numbers differ.

Google publishes no digests of these files in text; the storage server sends the MD5 of a file as
it sends the file, and `fetch` checks it then.
"""

import dataclasses

_BUCKET = "https://storage.googleapis.com/vit_models"


@dataclasses.dataclass(frozen=True)
class Known:
    """A public file of weights; without `url` it is part of vpjax, in vpjax/assets.

    `preset` names the normalisation it was trained with ("inception": mean 0.5, deviation 0.5).
    `digest`, where one is published, is "algorithm:prefix of the hexadecimal digest".
    """

    url: str
    file: str
    preset: str
    variant: str
    about: str
    digest: str | None = None


def _original(variant: str) -> Known:
    file = f"ViT-{variant.replace('/', '_')}.npz"
    about = f"ViT-{variant}, supervised ImageNet-21k, 224 px (arXiv 2010.11929)"
    return Known(f"{_BUCKET}/imagenet21k/{file}", file, "inception", variant, about)


def _augreg(variant: str, recipe: str) -> Known:
    file = f"{variant.replace('/', '_')}-i21k-300ep-lr_0.001-{recipe}.npz"
    about = f"ViT-{variant}, AugReg ImageNet-21k, 300 epochs, 224 px (arXiv 2106.10270)"
    return Known(f"{_BUCKET}/augreg/{file}", file, "inception", variant, about)


KNOWN: dict[str, Known] = {
    "digits_vit": Known("", "digits_vit.npz", "digits", "Ti/4", "the first run: digits 0-4, 8 px"),
    "vit_b16_in21k": _original("B/16"),
    "vit_b32_in21k": _original("B/32"),
    "vit_l16_in21k": _original("L/16"),
    "vit_l32_in21k": _original("L/32"),
    "vit_h14_in21k": _original("H/14"),
    "vit_ti16_augreg_in21k": _augreg("Ti/16", "aug_none-wd_0.03-do_0.0-sd_0.0"),
    "vit_s32_augreg_in21k": _augreg("S/32", "aug_none-wd_0.1-do_0.0-sd_0.0"),
    "vit_s16_augreg_in21k": _augreg("S/16", "aug_light1-wd_0.03-do_0.0-sd_0.0"),
    "vit_b32_augreg_in21k": _augreg("B/32", "aug_light1-wd_0.1-do_0.0-sd_0.0"),
    "vit_b16_augreg_in21k": _augreg("B/16", "aug_medium1-wd_0.1-do_0.0-sd_0.0"),
    "vit_l16_augreg_in21k": _augreg("L/16", "aug_strong1-wd_0.1-do_0.0-sd_0.0"),
}
