"""Baselines that add nothing but a head: they differ in which parameters train.

Linear     the head              (with head_hidden=2 it is VPT's MLP-3)
Bias       the head and every bias of the backbone
Partial    the head, the last k groups of layers and the last norm
ClsToken   the head and the class token
Full       everything

The backbone's dropout and stochastic depth act in `Full` only; BatchNorm uses the averages of the
batch where its layer trains. The baselines of VPT (Jia et al. 2022, arXiv 2203.12119).
"""

import dataclasses
import re
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array

from vpjax.backbones.base import Backbone
from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.methods.base import Method
from vpjax.nn.context import Context

BIAS = r"backbone/.*bias.*"  # relative_position_bias_table too


class _Plain(Method):
    """A method that adds nothing but a head, unless a subclass does."""

    def fold(self, backbone: Backbone) -> dict[str, Array]:
        """Return nothing: the backbone's own weights are the trained ones."""
        mine = params.flatten(nnx.state(self))
        return {} if all(n.startswith("head/") for n in mine) else super().fold(backbone)


class Linear(_Plain):
    """Linear probe: a head on the pooled features of a frozen backbone."""

    trains_after_pooling = True


class Full(_Plain):
    """Full fine-tuning: everything trains, and the backbone's dropout acts."""

    trainable = r".*"
    trainable_stats = r".*"
    backbone_dropout = True


class Bias(_Plain):
    """Bias tuning: every bias of the backbone and the head train.

    Zaken et al. 2021 (BitFit, arXiv 2106.10199); Cai et al. 2020 (TinyTL, arXiv 2007.11622).

    Args:
        match_reference_code: whether only the head trains on convolutional networks, as no
            gradient reaches their biases in VPT's published code.
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


class Partial(_Plain):
    """Partial fine-tuning: the last groups of layers, the last norm and the head train.

    Args:
        num_layers: number of groups; `backbone.partial` says what a group is.

    Raises:
        UserError: if the backbone has not that many groups.
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
        """Apply a layer; BatchNorm uses the batch in layers that train."""
        if ctx.layer >= self.batch_from:
            ctx = dataclasses.replace(ctx, noisy_backbone=True)
        return super().step(layer, state, ctx)


class ClsToken(_Plain):
    """Tuning of the class token: it and the head train.

    Args:
        reinit: whether the token starts near zero instead of from the weights file.

    Raises:
        UserError: if the backbone has no class token.
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
        reinitialised_cls_token(backbone, None, False)

    def reinitialised_params(self, backbone: Backbone, key: Array) -> dict[str, Array]:
        """Return a new class token, if `reinit` is on."""
        return reinitialised_cls_token(backbone, key, self.reinit)


def reinitialised_cls_token(
    backbone: Backbone, key: Array | None, reinit: bool
) -> dict[str, Array]:
    """Return {"cls_token": a token drawn from N(0, 1e-12)} if `reinit`, else {}.

    Args:
        backbone: whose class token has the right shape.
        key: to draw from; not needed if `reinit` is False.
        reinit: whether to draw one.

    Raises:
        UserError: if the backbone has no class token.
    """
    if getattr(backbone, "cls_token", None) is None:
        raise UserError(
            f"{type(backbone).__name__} has no class token to train. Use a ViT with one, or "
            "another method."
        )
    if not reinit:
        return {}
    return {"cls_token": 1e-6 * jax.random.normal(key, backbone.cls_token.shape)}
