"""CLIP as it is: an image belongs to the class whose text is nearest; nothing is learnt.

    logits_bc = s <u(f_b), t_c>      f: image feature, t: text feature of the class, of length 1
                                     u(x) = x / |x|, s: exp(logit_scale) of the weights

Radford et al. 2021, arXiv 2103.00020. Methods that keep the text fixed build on this class.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.backbones.clip import CLIP
from vpjax.core.errors import UserError
from vpjax.methods.base import Method
from vpjax.nn.context import Context
from vpjax.nn.mop_similarity import unit

HIGHEST = jax.lax.Precision.HIGHEST


class ZeroShot(Method):
    """Compares images with the names of the classes; it has no head, and trains nothing.

    Raises:
        UserError: if the backbone is not CLIP's image tower.
    """

    trainable = ""
    trains_after_pooling = True
    reads_class_names = True
    for_any_classes = True
    logit_description = "cosines, times exp(logit_scale) of the weights"

    def __init__(self, backbone: Backbone, num_classes: int, *, rngs: nnx.Rngs):
        if not isinstance(backbone, CLIP):
            raise UserError(
                f"{type(self).__name__} compares images with texts and needs a CLIP, and the "
                f"backbone is a {type(backbone).__name__}; set backbone.name='clip.CLIP'"
            )
        # No parameters, so never trained; the builder puts what the weights say here.
        self.text = nnx.Variable(
            unit(jax.random.normal(rngs.params(), (num_classes, backbone.dim)))
        )
        self.scale = nnx.Variable(jnp.float32(100.0))

    def classify(self, features: Float[Array, "B D"], ctx: Context) -> dict[str, Array]:
        """Return "logits" (B C) and "features" (B D), of length 1."""
        f = unit(features.astype(jnp.float32))
        return {"logits": self.scale[...] * self.cosines(f), "features": f}

    def cosines(self, f: Float[Array, "B D"]) -> Float[Array, "B C"]:
        """Return the cosines between features of length 1 and the classes."""
        return jnp.matmul(f, self.text[...].T, precision=HIGHEST)
