"""One tiny case a backbone and a method; the contract is tested on every pair."""

import functools
from typing import Any

import jax
from flax import nnx

from vpjax.backbones.vit import ViT
from vpjax.context import Context
from vpjax.methods.finetune import Full, Linear
from vpjax.methods.vpt import VPT
from vpjax.model import EVALUATION, Model, Parts, put_together, take_apart

CLASSES = 5
IMAGE = 16


def tiny_vit(rngs: nnx.Rngs) -> ViT:
    return ViT("Ti/4", IMAGE, dim=16, mlp_dim=24, heads=2, depth=2, dropout=0.0, rngs=rngs)


BACKBONES = {"vit": tiny_vit}
METHODS = {
    "linear": (Linear, {}),
    "mlp_head": (Linear, {"head_hidden": 1}),
    "full": (Full, {}),
    "vpt_shallow": (VPT, {"num_tokens": 3, "deep": False}),
    "vpt_deep": (VPT, {"num_tokens": 3}),
    "vpt_deep_dropout": (VPT, {"num_tokens": 3, "dropout": 0.3}),
    "vpt_deep_project": (VPT, {"num_tokens": 3, "project": 4}),
}


@functools.cache
def make(backbone: str, method: str, cls: type | None = None, **options: Any) -> Parts:
    """Returns a case taken apart. Its head is drawn, so that no gradient is zero by a zero head.

    `cls` and `options` replace the case's own.
    """
    rngs = nnx.Rngs(0)
    body = BACKBONES[backbone](rngs)
    own, own_options = METHODS[method]
    options = own_options | {"head_init": "classes"} | options
    return take_apart(Model(body, (cls or own)(body, CLASSES, rngs=rngs, **options)))


def outputs(parts: Parts, images: Any, ctx: Context = EVALUATION, remat: str = "none") -> dict:
    """Runs the model of some parts, compiled."""
    graph = parts.graph

    def call(trainable, stats, frozen, images):
        return put_together(graph, trainable, stats, frozen)(images, ctx, remat)

    return jax.jit(call)(*parts[1:], images)
