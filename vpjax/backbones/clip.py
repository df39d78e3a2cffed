"""CLIP's image encoder: a ViT with a norm before its layers and a projection after them.

    image -> patches + class token + positions -> pre_norm -> blocks -> norm -> class token
          -> projection to the width of text features

Radford et al. 2021, arXiv 2103.00020. The patch projection has no bias, MLPs use the quick GELU,
norms an epsilon of 1e-5. Weights, and with them all sizes, come from files of the Hugging Face hub
or of OpenAI (`vpjax.weights.clip`), see docs/clip.md. The text encoder is
`vpjax.models.text.tower`.
"""

from typing import Any

from flax import nnx

from vpjax.backbones.clip_variants import variant as find
from vpjax.backbones.vit import ViT
from vpjax.weights.clip_config import read_clip_config


class CLIP(ViT):
    """CLIP's vision tower; other options are those of `vit.ViT`.

    An option that is None is taken from the weights, or else from the variant. The option `dim` is
    the width of tokens; the attribute `dim` is that of the features.

    Args:
        variant: "B/32", "B/16", "L/14" or "L/14@336", also as OpenAI ("ViT-B/16") or the Hugging
            Face hub write it.
        image_size: an edge or (height, width), pixels.
        joint_dim: width of the features, which image and text share.
        projection_dim: the same.
        dropout: see `vit.ViT`.

    Raises:
        UserError: for an unknown variant or activation, or sizes that do not fit together.
    """

    preset = "clip"
    usual = dict(ViT.usual) | {"eps": 1e-5, "activation": "quick_gelu", "patch_bias": False}
    usual |= {"pre_norm": True}

    def __init__(
        self,
        variant: str = "B/16",
        image_size: int | tuple[int, int] | None = None,
        *,
        joint_dim: int | None = None,
        projection_dim: int | None = None,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        **inherited,
    ):
        chosen = find(variant)
        super().__init__(
            chosen.vision,
            image_size or chosen.image_size,
            projection_dim=projection_dim or joint_dim or chosen.joint_dim,
            dropout=dropout,
            rngs=rngs,
            **inherited,
        )

    @classmethod
    def complete(cls, options: dict[str, Any], weights: str) -> dict[str, Any]:
        """Fill options that are None with the sizes of the weights, see `read_clip_config`.

        Raises: UserError if the weights, or the config.json beside them, cannot be read.
        """
        sizes = read_clip_config(weights).vision if weights else {}
        out = {k: sizes.get(k) if v is None else v for k, v in options.items()}
        if out.get("image_size") is None:
            out["image_size"] = find(out["variant"]).image_size
        return out
