"""CLIP's image encoder: a ViT with a norm before its layers and a projection after them.

    image -> patches + class token + positions -> pre_norm -> blocks -> norm -> class token
          -> projection to the width of text features

Radford et al. 2021, arXiv 2103.00020. The patch projection has no bias, MLPs use the quick GELU,
norms an epsilon of 1e-5; models of OpenCLIP (Cherti et al. 2023, arXiv 2212.07143) differ, as their
configuration says. Weights, and with them all sizes, come from files of the Hugging Face hub, of
OpenAI or of OpenCLIP (`vpjax.weights.clip`), see docs/clip.md. The text encoder is
`vpjax.models.text.tower`.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from vpjax.backbones.clip_variants import variant as find
from vpjax.backbones.vit import ViT
from vpjax.weights.recognise import describe

USUAL = "B/16"


class CLIP(ViT):
    """CLIP's vision tower; other options are those of `vit.ViT`.

    An option that is None is taken from the weights, or else from the variant. The option `dim` is
    the width of tokens; the attribute `dim` is that of the features.

    Args:
        variant: "B/32", "B/16", "L/14" or "L/14@336", also as OpenAI ("ViT-B/16"), OpenCLIP
            ("ViT-B-16") or the Hugging Face hub write it.
        image_size: an edge or (height, width), pixels.
        joint_dim: width of the features, which image and text share; 0: that of the tokens, as
            there is no projection.
        projection_dim: the same.
        projection_bias: whether the projection has a bias, as in some models of OpenCLIP.
        dropout: see `vit.ViT`.

    Raises:
        UserError: for an unknown variant or activation, or sizes that do not fit together.
    """

    never_assumed = ViT.never_assumed | {"activation", "heads"}
    preset = "clip"  # where neither the weights nor their configuration say another
    usual = dict(ViT.usual) | {"eps": 1e-5, "activation": "quick_gelu", "patch_bias": False}
    usual |= {"pre_norm": True}

    def __init__(
        self,
        variant: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        *,
        joint_dim: int | None = None,
        projection_dim: int | None = None,
        projection_bias: bool | None = None,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        **inherited,
    ):
        chosen = find(variant or USUAL)
        widths = (joint_dim, projection_dim, chosen.joint_dim)
        width = next(w for w in widths if w is not None) or None
        super().__init__(
            chosen.vision,
            image_size or chosen.image_size,
            projection_dim=width,
            dropout=dropout,
            rngs=rngs,
            **inherited,
        )
        if width and projection_bias:
            self.projection.bias = nnx.data(nnx.Param(jnp.zeros(width)))

    @classmethod
    def options_of_variant(cls, variant: str) -> dict[str, Any]:
        """Return the sizes that a variant stands for."""
        return super().options_of_variant(find(variant).vision)

    @classmethod
    def complete(cls, options: dict[str, Any], weights: str) -> dict[str, Any]:
        """Fill options that are None or absent with those of the weights, as far as known.

        Raises: UserError if the weights, or the configuration beside them, cannot be used.
        """
        found = describe(weights) if weights else None
        known = found.options if found else {}
        out = options | {k: v for k, v in known.items() if options.get(k) is None}
        if out.get("image_size") is None:
            out["image_size"] = find(out.get("variant") or USUAL).image_size
        return out
