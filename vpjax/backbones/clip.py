"""CLIP's image encoder: a ViT with a norm before its layers and a projection behind them.

    image -> patches + class token + positions -> pre_norm -> blocks -> norm -> class token
          -> projection, to the width that image and text features share

Radford et al. 2021, arXiv 2103.00020. Patches have no bias, MLPs the quick GELU, norms an epsilon
of 1e-5. Weights come from the Hugging Face hub's files or from OpenAI's (`vpjax.weights.clip`), and
with them all sizes: see docs/clip.md. The text encoder is `vpjax.models.text.tower`.
"""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.clip_variants import variant as find
from vpjax.backbones.vit import ViT
from vpjax.core.errors import UserError
from vpjax.nn.context import Context
from vpjax.nn.layers import Dense, LayerNorm
from vpjax.nn.tokens import Tokens
from vpjax.weights.clip_config import read_clip_config


class CLIP(ViT):
    """The vision tower; `dim` is its tokens' width until it is built, then that of the features.

    An option left at None is what the weights say, or else what `variant` has ("B/32", "B/16",
    "L/14", "L/14@336"; "ViT-B/16" and names of the hub are understood). `joint_dim` is the width of
    the features; `activation` is "quick_gelu", or "gelu" for weights that were trained so.
    Raises: UserError for an unknown variant or activation, or sizes that do not fit together.
    """

    patch_bias = False
    preset = "clip"  # how images are prepared, whatever the weights

    def __init__(
        self,
        variant: str = "B/16",
        image_size: int | tuple[int, int] | None = None,
        *,
        joint_dim: int | None = None,
        dropout: float = 0.0,
        eps: float | None = None,
        activation: str | None = None,
        rngs: nnx.Rngs,
        **inherited,
    ):
        chosen = find(variant)
        self.activation = activation or "quick_gelu"
        eps = 1e-5 if eps is None else eps
        super().__init__(
            chosen.vision,
            image_size or chosen.image_size,
            dropout=dropout,
            eps=eps,
            rngs=rngs,
            **inherited,
        )
        if self.pre_logits:
            raise UserError("clip.CLIP has no pre_logits; leave the option out")
        width, self.dim = self.dim, joint_dim or chosen.joint_dim
        self.pre_norm = LayerNorm(width, eps=eps)
        self.projection = Dense((width,), (self.dim,), bias=False, rngs=rngs)

    @classmethod
    def complete(cls, options: dict[str, Any], weights: str) -> dict[str, Any]:
        """Returns a config's options, those at None filled from the weights; see `read_clip_config`.

        Raises: UserError if the weights, or the config beside them, cannot be read.
        """
        own = read_clip_config(weights).vision if weights else {}
        out = {k: own.get(k) if v is None else v for k, v in options.items()}
        if out.get("image_size") is None:
            out["image_size"] = find(out["variant"]).image_size
        return out

    def add_positions(
        self,
        patches: Float[Array, "B h w D"],
        ctx: Context,
        cls: Float[Array, "B 1 D"] | None = None,
    ) -> Tokens:
        """As a ViT does, then the norm before the layers."""
        tokens = super().add_positions(patches, ctx, cls)
        return Tokens(self.pre_norm(tokens.x), tokens.num_prefix_tokens, tokens.grid)

    def pool(self, tokens: Tokens, over: slice | None = None) -> Float[Array, "B D"]:
        """The class token after the last norm, projected."""
        return self.projection(super().pool(tokens, over))
