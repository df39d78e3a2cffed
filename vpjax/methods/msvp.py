"""MS-VP: small learnt images, enlarged and fused into the input image before the backbone.

    global 1 x 1 \\
    mid    4 x 4  > enlarged to H x W, mean m:   add     y = x + m
    local  8 x 8 /                               gated   y = x + sigmoid(conv(m)) m
                                                 concat  y = conv([x, global, mid, local])

Convolutions are 1 x 1. "Multi-Scale Visual Prompting for Lightweight Small-Image Classification",
arXiv 2512.03663, and its code, where everything trains from scratch, the backbone too. Here the
prompts work before any backbone, and `MSVPFrozen` keeps the backbone frozen.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.core.errors import unknown
from vpjax.methods.base import Method
from vpjax.methods.finetune import Full
from vpjax.nn.context import Context
from vpjax.nn.tokens import Tokens

EDGES = {"global": 1, "mid": 4, "local": 8}  # pixels
SCALES = {
    "global": ("global",),
    "global+mid": ("global", "mid"),
    "full": ("global", "mid", "local"),
}
FUSIONS = ("add", "concat", "gated")
GATE_BIASES = ("uniform", "zero")
SPREAD = 0.01  # of the prompts at the start


class MSVP(Full):
    """Multi-scale prompts in pixels, and a backbone that trains with them.

    Args:
        prompt_scales: "global" (1 x 1 pixel), "global+mid" (and 4 x 4) or "full" (and 8 x 8).
        fusion_type: "add"; "concat": a convolution of image and prompts, with no path around it;
            "gated": adds them times a gate that depends on the prompts only.
        gate_bias: how the gate's bias starts, "uniform" within 1 / sqrt(channels) or "zero".

    Raises:
        UserError: for another name.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        prompt_scales: str = "full",
        fusion_type: str = "add",
        gate_bias: str = "uniform",
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        choices = {"prompt_scales": (prompt_scales, SCALES), "fusion_type": (fusion_type, FUSIONS)}
        choices["gate_bias"] = gate_bias, GATE_BIASES
        for option, (given, known) in choices.items():
            if given not in known:
                raise unknown(option, given, known)
        self.scales, self.fusion_type = SCALES[prompt_scales], fusion_type
        channels = backbone.stem.channels
        draw = lambda n: nnx.Param(SPREAD * jax.random.normal(rngs.params(), (n, n, channels)))  # noqa: E731
        self.global_prompt, self.mid_prompt, self.local_prompt = (
            draw(edge) if scale in self.scales else None for scale, edge in EDGES.items()
        )
        inputs = channels * (1 + len(self.scales) if fusion_type == "concat" else 1)
        bias = gate_bias if fusion_type == "gated" else None
        learnt = fusion_type != "add"  # set once: nnx fixes what an attribute is when it is set
        self.fusion = _Pointwise(inputs, channels, bias=bias, rngs=rngs) if learnt else None

    def start(self, backbone: Backbone, images: Float[Array, "B H W C"], ctx: Context) -> Tokens:
        """Return the tokens of the images with the prompts fused into them."""
        return super().start(backbone, self.prompted(images), ctx)

    def prompted(self, images: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Return normalised images with the prompts fused into them."""
        prompts = list(self.enlarged(images.shape[1:3]).values())
        mean = sum(prompts) / len(prompts)
        if self.fusion_type == "add":
            return images + mean.astype(images.dtype)
        if self.fusion_type == "gated":
            return images + (self.gate(mean) * mean).astype(images.dtype)
        # The convolution is a sum over channels, and the prompts' part is the same for all images.
        kernel, channels = self.fusion.kernel[...], images.shape[-1]
        part = jnp.concatenate(prompts, axis=-1) @ kernel[channels:]  # H W C
        return images @ kernel[:channels].astype(images.dtype) + part.astype(images.dtype)

    def enlarged(self, size: tuple[int, int]) -> dict[str, Float[Array, "H W C"]]:
        """Return the prompts, enlarged to `size` (height, width in pixels), by scale.

        Bilinear, with half-pixel centres and clamped edges.
        """
        out = {}
        for scale in self.scales:
            prompt = getattr(self, f"{scale}_prompt")[...]
            shape = (*size, prompt.shape[-1])
            out[scale] = jax.image.resize(prompt, shape, "linear", antialias=False)
        return out

    def gate(self, mean: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """Return the gate, 0 to 1, that the prompts' mean is multiplied with."""
        return jax.nn.sigmoid(mean @ self.fusion.kernel[...] + self.fusion.bias[...])


class MSVPFrozen(MSVP):
    """Multi-scale prompts before a frozen backbone: prompts, fusion and head train."""

    trainable, trainable_stats = Method.trainable, Method.trainable_stats
    backbone_dropout = False


class _Pointwise(nnx.Module):
    """The parameters of a 1 x 1 convolution; `bias` is None, "zero" or "uniform"."""

    def __init__(self, inputs: int, outputs: int, *, bias: str | None, rngs: nnx.Rngs):
        spread = math.sqrt(2 / outputs)
        self.kernel = nnx.Param(spread * jax.random.normal(rngs.params(), (inputs, outputs)))
        bound = 1 / math.sqrt(inputs) if bias == "uniform" else 0.0
        draw = lambda: jax.random.uniform(rngs.params(), (outputs,), minval=-bound, maxval=bound)  # noqa: E731
        self.bias = None if bias is None else nnx.Param(draw())
