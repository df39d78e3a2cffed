"""A model is a backbone and a method, joined by these lines.

    state = method.start(backbone, images, ctx)
    for layer in backbone.layers:
        state = method.step(layer, state, ctx)
    outputs = method.predict(backbone, state, ctx)

Read this file first; the rest of the library hangs from it.
"""

import dataclasses
import re

from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.methods.base import Method
from vpjax.nn.context import EVALUATION, Context
from vpjax.nn.stack import run_layers


class Model(nnx.Module):
    """Images in, a dictionary of outputs out."""

    def __init__(self, backbone: Backbone, method: Method):
        self.backbone = backbone
        self.method = method

    @property
    def trainable_stats(self) -> set[str]:
        """Names of the running averages that training changes, such as "backbone/norm/mean"."""
        names = params.flatten(nnx.state(self, nnx.BatchStat))
        return {n for n in names if re.fullmatch(self.method.trainable_stats, n)}

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        ctx: Context = EVALUATION,
        remat: str = "none",
        segments: int = 0,
    ) -> dict[str, Array]:
        backbone, method = self.backbone, self.method
        ctx = dataclasses.replace(ctx, hook=method.tap, noisy_backbone=method.backbone_dropout)
        if remat != "none" and any(n.startswith("backbone/layers/") for n in self.trainable_stats):
            raise UserError(
                f"remat is {remat!r}, but BatchNorm of layers that train follows the batches, and "
                "layers that change running averages cannot be run twice. Set remat='none'."
            )
        state = method.start(backbone, images, ctx)
        num_outputs = method.num_outputs(backbone)
        state = run_layers(backbone.layers, state, method.step, ctx, num_outputs, remat, segments)
        return method.predict(backbone, state, ctx)
