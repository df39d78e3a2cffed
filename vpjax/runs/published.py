"""The backbones of published recipes by name, for a recipe's choice `backbone=`."""

from ml_collections import ConfigDict

from vpjax.core.errors import unknown
from vpjax.runs.config import use_weights
from vpjax.weights.recognise import looks_like_weights

# Of VPT's paper by family, then as VPT's and its fork's programs call them (DATA.FEATURE).
BACKBONES = {
    "vit": "vit_b16_in21k",
    "swin": "swin_b_in22k",
    "mae": "mae_b16",
    "moco": "mocov3_b16",
    "convnext": "convnext_b_in22k",
    "resnet": "resnet50_in1k",
    "sup_vitb16": "vit_b16_in21k",
    "sup_vitl16": "vit_l16_in21k",
    "sup_vitb16_imagenet21k": "vit_b16_in21k",
    "sup_vitb32_imagenet21k": "vit_b32_in21k",
    "sup_vitl16_imagenet21k": "vit_l16_in21k",
    "sup_vitl32_imagenet21k": "vit_l32_in21k",
    "sup_vith14_imagenet21k": "vit_h14_in21k",
    "mae_vitb16": "mae_b16",
    "mae_vitl16": "mae_l16",
    "mae_vith14": "mae_h14",
    "mocov3_vitb": "mocov3_b16",
    "swint_imagenet": "swin_t_in1k",
    "swint_imagenet_ssl": "swin_t_moby",
    "swins_imagenet": "swin_s_in1k",
    "swinb_imagenet_224": "swin_b_in1k",
    "swinb_imagenet_384": "swin_b_384_in1k",
    "swinb_imagenet22k_224": "swin_b_in22k",
    "swinb_imagenet22k_384": "swin_b_384_in22k",
    "swinl_imagenet22k_224": "swin_l_in22k",
    "imagenet_sup_rnx_tiny": "convnext_t_in1k",
    "imagenet_sup_rnx_small": "convnext_s_in1k",
    "imagenet_sup_rnx_base": "convnext_b_in1k",
    "imagenet22k_sup_rnx_base": "convnext_b_in22k",
    "imagenet22k_sup_rnx_large": "convnext_l_in22k",
    "imagenet22k_sup_rnx_xlarge": "convnext_xl_in22k",
} | {f"imagenet_sup_rn{n}": f"resnet{n}_in1k" for n in (18, 34, 50, 101, 152)}


def use_backbone(config: ConfigDict, name: str) -> None:
    """Set the backbone of a recipe, in place.

    Args:
        config: of the recipe.
        name: a key of `BACKBONES`; or any weights: a name of the catalogue or the hub, or a path.

    Raises:
        UserError: for a name that is neither, or weights that cannot be read.
    """
    if name not in BACKBONES and not looks_like_weights(name):
        raise unknown("backbone of the recipe", name, BACKBONES)
    weights = BACKBONES.get(name, name)
    if weights != config.backbone.weights:
        use_weights(config, weights)
