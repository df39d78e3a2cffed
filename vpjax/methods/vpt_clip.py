"""VPT on CLIP: prompts in the image tower, fixed text features of the classes, no head.

    [ cls | prompts_i | patches ]  ->  layer i, the first `depth` layers  ->  f
    logits = s <unit(f), t_c>      t_c: text feature of "a photo of a NAME.", computed once

The baseline of Khattak et al. 2023 (MaPLe, arXiv 2210.03117). `vpt.VPT` on CLIP has a head instead,
leaves the first prompts without CLIP's norm before the layers, and draws them wider.
"""

import jax
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.methods.class_texts import check_context, drawn
from vpjax.methods.clip_cosines import _Prompted, check_depth
from vpjax.nn.context import Context
from vpjax.nn.mop_similarity import unit


class VPTCLIP(_Prompted):
    """Prompts in CLIP's image tower, compared with the texts of the classes.

    Args:
        num_tokens: P, prompts of a layer.
        depth: layers with prompts, the first ones; None: all.

    Raises:
        UserError: for numbers that do not suit the backbone, or a backbone that is not CLIP's.
    """

    trainable = r"method/prompts/.*"
    reads_class_names = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        num_tokens: int = 8,
        depth: int | None = None,
        rngs: nnx.Rngs,
    ):
        depth = len(backbone.layers) if depth is None else depth
        super().__init__(backbone, vision_depth=depth)
        check_context("", num_tokens, "num_tokens")
        check_depth("depth", depth, 1, len(backbone.layers))
        width = backbone.sites[0].dim
        self.prompts = nnx.Dict({str(i): drawn(rngs, num_tokens, width) for i in range(depth)})
        # No parameter, so never trained; the builder puts the text features of the classes here.
        text = jax.random.normal(rngs.params(), (num_classes, backbone.dim))
        self.text = nnx.Variable(unit(text))

    def vision_prompt(self, layer: int) -> Float[Array, "P D"]:
        """Return the prompts of a layer."""
        return self.prompts[str(layer)][...]

    def classify(self, features: Float[Array, "B D"], ctx: Context) -> dict[str, Array]:
        """Return "logits" (B C) and "features" (B D) of length 1."""
        return self.cosines(features, unit(self.text[...]))
