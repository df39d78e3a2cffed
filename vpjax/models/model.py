"""A model is a backbone and a method, joined by these lines.

    state = method.start(backbone, images, ctx)
    for layer in backbone.layers:
        state = method.step(layer, state, ctx)
    outputs = method.predict(backbone, state, ctx)

Read this file first: everything else in the library serves these lines.
"""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Num

from vpjax.backbones.base import Backbone
from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.methods.base import Method
from vpjax.models.partition import partition, trainable_line, trainable_table
from vpjax.nn.context import EVALUATION, Context
from vpjax.nn.stack import run_layers


class Model(nnx.Module):
    """A frozen backbone and a method on top: images in, a dictionary of outputs out.

    Attributes:
        backbone: the pretrained part.
        method: everything that is trained on top of it.
        trainable_pattern: regular expression of the parameters that train; "": the method's own.
    """

    def __init__(self, backbone: Backbone, method: Method, trainable_pattern: str = ""):
        self.backbone = backbone
        self.method = method
        self.trainable_pattern = trainable_pattern

    @property
    def trainable_stats(self) -> set[str]:
        """Names of the running averages that training changes, such as "backbone/norm/mean"."""
        names = params.flatten(nnx.state(self, nnx.BatchStat))
        return {n for n in names if re.fullmatch(self.method.trainable_stats, n)}

    def __call__(
        self,
        images: Num[Array | np.ndarray, "B H W C"],
        ctx: Context = EVALUATION,
        remat: str = "none",
        segments: int = 0,
    ) -> dict[str, Array]:
        """Return the outputs: "logits" (B C), "features" (B D), and what a method adds.

        Args:
            images: uint8, which the backbone's preprocessing prepares; or floats, which are taken
                as prepared.
            ctx: evaluation by default; training passes one with a key.
            remat: what the backward pass recomputes, see `vpjax.nn.stack.run_layers`.
            segments: into how many groups the layers are split for that.

        Raises:
            UserError: if `remat` would run layers twice whose BatchNorm changes its averages.
        """
        if images.dtype == jnp.uint8:
            images = self.backbone.preprocess(images)
        backbone, method = self.backbone, self.method
        ctx = dataclasses.replace(
            ctx, hook=method.tap, noisy_backbone=method.backbone_dropout, remat=remat
        )
        if remat != "none" and any(n.startswith("backbone/layers/") for n in self.trainable_stats):
            raise UserError(
                f"remat is {remat!r}, but the BatchNorm of layers that train updates its running "
                "averages, and such layers cannot be run twice. Set remat='none'."
            )
        state = method.start(backbone, images, ctx)
        num_outputs = method.num_outputs(backbone)
        state = run_layers(backbone.layers, state, method.step, ctx, num_outputs, remat, segments)
        return method.predict(backbone, state, ctx)

    def __repr__(self) -> str:
        """Return a table of what trains, under a line "trainable 1,781 of 79,205 (2.25 %)"."""
        parts = partition(self, self.trainable_pattern)
        title = f"{type(self.method).__name__} on {type(self.backbone).__name__}"
        return f"{title}: {trainable_line(parts)}\n{trainable_table(parts)}"

    __str__ = __repr__
