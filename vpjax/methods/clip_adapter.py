"""CLIP-Adapter: two layers change the image feature of a frozen CLIP, and are mixed with it.

    a  = ReLU(W2 ReLU(W1 f))                  f: image feature, not normalised; no biases
    f' = ratio a + (1 - ratio) f
    logits_bc = s <u(f'_b), t_c>              as zero-shot CLIP, see vpjax.methods.zero_shot

Gao et al. 2021, arXiv 2110.04544. Its adapter of the text is not in the published code, nor here.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.methods.zero_shot import HIGHEST, ZeroShot
from vpjax.nn.context import Context


class CLIPAdapter(ZeroShot):
    """A bottleneck behind the image tower; it may be used for classes it was not trained on.

    Args:
        ratio: share of the adapter's output in the feature; 0 is zero-shot CLIP.
        reduction: how many times narrower the bottleneck is than the feature.

    Raises:
        UserError: for an option out of range, or a backbone that is not CLIP's.
    """

    trainable = r"method/(down|up)"

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        ratio: float = 0.2,
        reduction: int = 4,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, num_classes, rngs=rngs)
        dim = backbone.dim
        if not 0 <= ratio <= 1:
            raise UserError(f"method.ratio is {ratio}; expected the adapter's share, from 0 to 1")
        if not 1 <= reduction <= dim:
            raise UserError(
                f"method.reduction is {reduction}; expected 1 to {dim}, the width of the features"
            )
        self.ratio, hidden = ratio, dim // reduction
        self.down = nnx.Param(_drawn(rngs, dim, hidden))
        self.up = nnx.Param(_drawn(rngs, hidden, dim))

    def classify(self, features: Float[Array, "B D"], ctx: Context) -> dict[str, Array]:
        """Return "logits" (B C) and "features" (B D), adapted and of length 1."""
        f = features.astype(jnp.float32)
        hidden = jax.nn.relu(jnp.matmul(f, self.down[...], precision=HIGHEST))
        adapted = jax.nn.relu(jnp.matmul(hidden, self.up[...], precision=HIGHEST))
        return super().classify(self.ratio * adapted + (1 - self.ratio) * f, ctx)


def _drawn(rngs: nnx.Rngs, fan_in: int, fan_out: int) -> Array:
    """Return the start of a linear layer in torch: U(-1, 1) / sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)
    return jax.random.uniform(rngs.params(), (fan_in, fan_out), minval=-bound, maxval=bound)
