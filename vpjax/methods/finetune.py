"""Baselines that add nothing but a head: what trains is a regular expression.

Linear     the head                       (an MLP head with head_hidden=2 is the paper's MLP-3)
Bias       and every bias of the backbone
Partial    and its last k groups of layers, with the last norm
ClsToken   and the class token
Full       everything

What the backbone does at random (dropout, stochastic depth) acts in Full alone; BatchNorm uses the
batch's own averages where its layer trains.
"""

import dataclasses
import re
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.methods.base import Method
from vpjax.nn.context import Context

BIAS = r"backbone/.*bias.*"  # relative_position_bias_table too


class Linear(Method):
    """Linear probe: the backbone stays frozen."""

    trains_after_pooling = True


class Full(Method):
    """Full fine-tuning; the backbone's dropout acts while it trains."""

    trainable = r".*"
    trainable_stats = r".*"
    backbone_dropout = True


class Bias(Method):
    """Every bias, and the head (Zaken et al. 2021, arXiv 2106.10199; Cai et al. 2020).

    `match_reference_code`: on convolutional networks the head alone, as no gradient reaches their biases in the
    published code.
    """

    trainable = rf"method/.*|{BIAS}"

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        match_reference_code: bool = False,
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        if match_reference_code and not any(s.has_attention for s in backbone.sites):
            self.trainable = Method.trainable


class Partial(Method):
    """The last `num_layers` groups of layers, the last norm and the head, counted as `backbone.partial` has it.

    Raises: UserError if the backbone has no such group.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        num_layers: int = 1,
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        pattern = backbone.partial(num_layers)
        self.trainable = self.trainable_stats = rf"method/.*|backbone/({pattern})"
        trains = [s.index for s in backbone.sites if re.fullmatch(pattern, f"layers/{s.index}/x")]
        self.batch_from = trains[0] if backbone.batch_norm else len(backbone.sites)

    def step(self, layer: nnx.Module, state: Any, ctx: Context) -> Any:
        """Let BatchNorm of the layers that train see the batch."""
        if ctx.layer >= self.batch_from:
            ctx = dataclasses.replace(ctx, noisy_backbone=True)
        return super().step(layer, state, ctx)


class ClsToken(Method):
    """The class token and the head; `reinit` starts the token anew, near zero.

    Raises: UserError if the backbone has no class token.
    """

    trainable = r"method/.*|backbone/cls_token"

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        reinit: bool = False,
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        self.reinit = reinit
        fresh_cls_token(backbone, None, False)

    def reinitialised_params(self, backbone: Backbone, key: Array) -> dict[str, Array]:
        """The class token, where `reinit` asks for it."""
        return fresh_cls_token(backbone, key, self.reinit)


def fresh_cls_token(backbone: Backbone, key: Array | None, wanted: bool) -> dict[str, Array]:
    """Return a class token drawn from N(0, 1e-6 squared) if it is wanted.

    Raises: UserError if the backbone has none.
    """
    if not hasattr(backbone, "cls_token"):
        raise UserError(f"{type(backbone).__name__} has no class token to train")
    if not wanted:
        return {}
    return {"cls_token": 1e-6 * jax.random.normal(key, backbone.cls_token.shape)}
