"""VFPT: prompts of which a share is Fourier-transformed before they enter a layer.

    V = dropout(project(P))    [ F(V[:k]) | V[k:] ]  or  [ V[k:] | F(V[:k]) ]    k = floor(N share)

F is the real part of the transform over the k prompts, their channels, or both, not normalised:
entries grow by sqrt(k D), 62 for 5 prompts of width 768, which the norm at the start of a layer
takes back. No parameter is added; a share of 0 is VPT. Zeng et al. 2024, arXiv 2411.01327.
"""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError, unknown
from vpjax.methods.vpt import VPT
from vpjax.nn.context import Context

AXES = {"all": (-2, -1), "hidden": (-1,), "sequence": (-2,)}
LOCATIONS = ("prepend", "append")


class VFPT(VPT):
    """Visual Fourier prompt tuning: VPT whose first prompts of a layer are transformed.

    Args:
        fourier_share: of the prompts of a layer, 0 to 1; rounded down. Where that leaves none, the
            prompts are plain.
        fourier_dimension: what is transformed: "all", "hidden" (channels) or "sequence" (prompts).
        fourier_location: whether transformed prompts are before the plain ones ("prepend") or
            after them; the published code's third choice draws anew at every pass, evaluation too.
        fourier_first_layer: False: the first layer's prompts are plain.

    Raises:
        UserError: for a share or a name that there is not.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        fourier_share: float = 0.5,
        fourier_dimension: str = "all",
        fourier_location: str = "prepend",
        fourier_first_layer: bool = True,
        rngs: nnx.Rngs,
        **inherited,
    ):
        if not 0 <= fourier_share <= 1:
            raise UserError(f"fourier_share is {fourier_share}; give a share from 0 to 1")
        if fourier_dimension not in AXES:
            raise unknown("fourier_dimension", fourier_dimension, AXES)
        if fourier_location not in LOCATIONS:
            raise unknown("fourier_location", fourier_location, LOCATIONS)
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        self.axes, self.location = AXES[fourier_dimension], fourier_location
        self.count = math.floor(self.num_tokens * fourier_share)
        self.plain_at = None if fourier_first_layer else self.at[0]

    def prepare(
        self, prompt: Float[Array, "P d"], batch: int, ctx: Context
    ) -> Float[Array, "... P D"]:
        """Return a layer's prompts as they enter it: projected, with dropout, then transformed."""
        prompt = super().prepare(prompt, batch, ctx)
        if self.count == 0 or ctx.layer == self.plain_at:
            return prompt
        first, rest = prompt[..., : self.count, :], prompt[..., self.count :, :]
        first = jnp.fft.fftn(first.astype(jnp.float32), axes=self.axes).real
        parts = [first, rest] if self.location == "prepend" else [rest, first]
        return jnp.concatenate(parts, axis=-2)
