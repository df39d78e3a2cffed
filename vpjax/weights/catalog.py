"""Public files of weights that vpjax knows by name: address, digest, backbone, preprocessing.

The original ImageNet-21k files belong to the ViT paper (Dosovitskiy et al. 2020, arXiv 2010.11929).
The AugReg files (Steiner et al. 2021, arXiv 2106.10270) are the best of each size by upstream
validation accuracy: the table of recommended checkpoints in google-research/vision_transformer.
timm's AugReg models of B/32, S/32 and L/16 come from other files of the same sweep, so their
numbers differ. Google publishes no digests of these files; its server sends the MD5 of a file with
the file, and `vpjax.weights.download` checks that.

The torch files after them are those that VPT's experiments use, from their authors' own addresses.
MD5 prefixes come from the authors' tables or from VPT's; torchvision puts SHA-256 prefixes into its
file names.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from vpjax.weights.anchor import split

_BUCKET = "https://storage.googleapis.com/vit_models"
_META = "https://dl.fbaipublicfiles.com"
_SWIN = "https://github.com/SwinTransformer/storage/releases/download"
_TORCH = "https://download.pytorch.org/models"


@dataclasses.dataclass(frozen=True)
class CatalogEntry:
    """A public file of weights.

    Attributes:
        url: where it is downloaded from; "" for a file that comes with vpjax (`weights/assets`).
        file: its public name, under which the cache keeps it.
        preset: the preprocessing it was trained with, a name in `vpjax.data.PRESETS`.
        variant: `backbone.variant` of a config.
        description: architecture, training data and paper, for people.
        digest: "algorithm:prefix of the hexadecimal digest" where one is published.
        backbone: `backbone.name` of a config; "" for a file that is not a backbone's.
        options: other options of the backbone that differ from its variant's.
    """

    url: str
    file: str
    preset: str
    variant: str
    description: str
    digest: str | None = None
    backbone: str = "vit.ViT"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _original(variant: str) -> CatalogEntry:
    file = f"ViT-{variant.replace('/', '_')}.npz"
    description = f"ViT-{variant}, supervised ImageNet-21k, 224 px (arXiv 2010.11929)"
    return CatalogEntry(f"{_BUCKET}/imagenet21k/{file}", file, "inception", variant, description)


def _augreg(variant: str, recipe: str, suffix: str = "", also: str = "") -> CatalogEntry:
    file = f"{variant.replace('/', '_')}-i21k-300ep-lr_0.001-{recipe}{suffix}.npz"
    description = f"ViT-{variant}, AugReg ImageNet-21k, 300 epochs{also}, 224 px (arXiv 2106.10270)"
    return CatalogEntry(f"{_BUCKET}/augreg/{file}", file, "inception", variant, description)


def _torch(
    backbone: str,
    variant: str,
    url: str,
    description: str,
    digest: str | None = None,
    file: str = "",
) -> CatalogEntry:
    file = file or url.rpartition("/")[2]
    return CatalogEntry(url, file, "imagenet", variant, description, digest, backbone)


def _mae(variant: str, size: str, md5: str) -> CatalogEntry:
    url = f"{_META}/mae/pretrain/mae_pretrain_vit_{size}.pth"
    description = f"ViT-{variant}, MAE on ImageNet-1k, 224 px (arXiv 2111.06377)"
    return _torch("vit.MAE", variant, url, description, f"md5:{md5}")


def _swin(variant: str, file: str, data: str, digest=None) -> CatalogEntry:
    description = f"Swin-{variant}, supervised {data} px (arXiv 2103.14030)"
    entry = _torch("swin.Swin", variant, f"{_SWIN}/v1.0.0/swin_{file}.pth", description, digest)
    return dataclasses.replace(entry, options={"image_size": 384} if "_384" in file else {})


def _convnext(variant: str, file: str, data: str) -> CatalogEntry:
    description = f"ConvNeXt-{variant}, supervised {data}, 224 px (arXiv 2201.03545)"
    url = f"{_META}/convnext/convnext_{file}.pth"
    return _torch("convnext.ConvNeXt", variant, url, description)


def _resnet(variant: str, sha256: str) -> CatalogEntry:
    description = f"ResNet-{variant}, supervised ImageNet-1k, torchvision (arXiv 1512.03385)"
    url = f"{_TORCH}/resnet{variant}-{sha256}.pth"
    return _torch("resnet.ResNet", variant, url, description, f"sha256:{sha256}")


CATALOG: dict[str, CatalogEntry] = {
    "digits_vit": CatalogEntry(
        "",
        "digits_vit.npz",
        "digits",
        "Ti/2",
        "the first run: digits 0-4, 8 px",
        options={"image_size": 8, "dim": 48, "mlp_dim": 96, "heads": 4, "depth": 4}
        | {"dropout": 0.0, "pos_std": 0.3},
    ),
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
    "vit_b16_augreg_in21k_ft_in1k": _augreg(
        "B/16",
        "aug_medium1-wd_0.1-do_0.0-sd_0.0",
        "--imagenet2012-steps_20k-lr_0.01-res_224",
        ", then ImageNet-1k",
    ),
    "vit_l16_augreg_in21k": _augreg("L/16", "aug_strong1-wd_0.1-do_0.0-sd_0.0"),
    "mae_b16": _mae("B/16", "base", "8cad7c"),
    "mae_l16": _mae("L/16", "large", "b8b06e"),
    "mae_h14": _mae("H/14", "huge", "9bdbb0"),
    "mocov3_b16": _torch(
        "vit.MoCoV3",
        "B/16",
        f"{_META}/moco-v3/vit-b-300ep/linear-vit-b-300ep.pth.tar",
        "ViT-B/16, MoCo v3 on ImageNet-1k, 300 epochs, with a linear head (arXiv 2104.02057)",
        "md5:8f39ce",
        "mocov3_linear-vit-b-300ep.pth.tar",  # VPT's name; the one in the address says little
    ),
    "swin_t_in1k": _swin("T", "tiny_patch4_window7_224", "ImageNet-1k, 224"),
    "swin_t_moby": _torch(
        "swin.Swin",
        "T",
        f"{_SWIN}/v1.0.3/moby_swin_t_300ep_pretrained.pth",
        "Swin-T, MoBY on ImageNet-1k, 300 epochs, 224 px (arXiv 2105.04553)",
    ),
    "swin_s_in1k": _swin("S", "small_patch4_window7_224", "ImageNet-1k, 224"),
    "swin_b_in1k": _swin("B", "base_patch4_window7_224", "ImageNet-1k, 224"),
    "swin_b_384_in1k": _swin("B", "base_patch4_window12_384", "ImageNet-1k, 384"),
    "swin_b_in22k": _swin("B", "base_patch4_window7_224_22k", "ImageNet-22k, 224", "md5:bf9cc1"),
    "swin_b_384_in22k": _swin("B", "base_patch4_window12_384_22k", "ImageNet-22k, 384"),
    "swin_l_in22k": _swin("L", "large_patch4_window7_224_22k", "ImageNet-22k, 224"),
    "convnext_t_in1k": _convnext("T", "tiny_1k_224_ema", "ImageNet-1k"),
    "convnext_s_in1k": _convnext("S", "small_1k_224_ema", "ImageNet-1k"),
    "convnext_b_in1k": _convnext("B", "base_1k_224_ema", "ImageNet-1k"),
    "convnext_b_in22k": _convnext("B", "base_22k_224", "ImageNet-22k"),
    "convnext_l_in22k": _convnext("L", "large_22k_224", "ImageNet-22k"),
    "convnext_xl_in22k": _convnext("XL", "xlarge_22k_224", "ImageNet-22k"),
    "resnet18_in1k": _resnet("18", "f37072fd"),
    "resnet34_in1k": _resnet("34", "b627a593"),
    "resnet50_in1k": _resnet("50", "0676ba61"),
    "resnet101_in1k": _resnet("101", "63fe2227"),
    "resnet152_in1k": _resnet("152", "394f9c45"),
    "alexnet_in1k": CatalogEntry(
        f"{_TORCH}/alexnet-owt-7be5be79.pth",
        "alexnet-owt-7be5be79.pth",
        "imagenet",
        "",
        "AlexNet, supervised ImageNet-1k, torchvision, for method.side_weights (arXiv 1404.5997)",
        "sha256:7be5be79",
        "",  # no backbone here
    ),
}


def list_weights(backbone: str = "") -> list[str]:
    """Return the names of the catalogue, in alphabetical order.

    Args:
        backbone: return only weights of this backbone, such as "swin.Swin".
    """
    return sorted(n for n, entry in CATALOG.items() if backbone in ("", entry.backbone))


def find_entry(weights: str) -> CatalogEntry | None:
    """Return the entry of a name in the catalogue, or of a path ending in a public file name."""
    weights, _ = split(weights)
    by_file = {entry.file: entry for entry in CATALOG.values()}
    return CATALOG.get(weights) or by_file.get(PurePath(weights).name)


def find_by_digest(path: Path) -> CatalogEntry | None:
    """Return the entry of which a file is a copy, whatever its name; None if it is none's.

    Only entries with a published digest can be found so.
    """
    known = [(entry, *entry.digest.split(":")) for entry in CATALOG.values() if entry.digest]
    found = {}
    for algorithm in sorted({algorithm for _, algorithm, _ in known}):
        with open(path, "rb") as file:
            found[algorithm] = hashlib.file_digest(file, algorithm).hexdigest()
    return next((e for e, algorithm, start in known if found[algorithm].startswith(start)), None)
