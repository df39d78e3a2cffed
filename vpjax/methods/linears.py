"""The linear layers of a transformer that methods adapt: their names, sizes and weights.

q, k, v, proj, fc1, fc2     one each; "+" joins names: "q+v"
qkv                         q, k and v as one layer of 3 D outputs, as timm has them
all                         all six

A matrix that stands for "qkv" has the outputs of q, k and v side by side.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError, unknown
from vpjax.methods.base import KEEP, instead
from vpjax.nn.context import Context
from vpjax.nn.layers import Dense

SITES = {
    "q": "attn.query",
    "k": "attn.key",
    "v": "attn.value",
    "proj": "attn.out",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
QKV = ("q", "k", "v")
ALL = "+".join(SITES)


class Place(NamedTuple):
    """A linear layer: index of its block, name, and how many numbers go in and out."""

    layer: int
    name: str
    inputs: int
    outputs: int


def parse(sites: str, what: str = "sites") -> tuple[str, ...]:
    """Return the names of linear layers in an option's value, such as "q+v" or "all".

    Raises:
        UserError: for an unknown name, one named twice, or none.
    """
    names = tuple((ALL if sites == "all" else sites).split("+"))
    for name in names:
        if name not in (*SITES, "qkv"):
            raise unknown(f"name of a linear layer in {what}={sites!r}", name, [*SITES, "qkv"])
    parts = [part for name in names for part in parts_of(name)]
    if len(set(parts)) < len(parts):
        raise UserError(f"{what}={sites!r} names a layer twice; qkv is q, k and v as one")
    return names


def parts_of(name: str) -> tuple[str, ...]:
    """Return the layers that a name stands for: itself, or q, k and v."""
    return QKV if name == "qkv" else (name,)


def places(backbone: Backbone, names: tuple[str, ...]) -> list[Place]:
    """Return the linear layers of these names in all blocks.

    Raises:
        UserError: if no block of the backbone has one of the names.
    """
    found = []
    for i, layer in enumerate(backbone.layers):
        for name in names:
            dense = [linear(layer, part) for part in parts_of(name)]
            if all(dense):
                outputs = sum(widths(d)[1] for d in dense)
                found.append(Place(i, name, widths(dense[0])[0], outputs))
    missing = [name for name in names if name not in {p.name for p in found}]
    if missing:
        has = "+".join(n for n in SITES if any(linear(layer, n) for layer in backbone.layers))
        raise UserError(
            f"{type(backbone).__name__} has no linear layer {missing[0]!r} for the method to "
            f"adapt; use {f'lora.LoRA with sites={has!r}, or ' * bool(has)}{instead(backbone)}."
        )
    return found


def linear(layer: nnx.Module, name: str) -> Dense | None:
    """Return the linear layer of a block that a name stands for, None where it has none."""
    room, attribute = SITES[name].split(".")
    found = getattr(getattr(layer, room, None), attribute, None)
    return found if isinstance(found, Dense) else None


def widths(dense: Dense) -> tuple[int, int]:
    """Return how many numbers enter and leave a linear layer, which may consist of shapes only."""
    shape = dense.kernel.shape
    return math.prod(shape[: dense.inputs]), math.prod(shape[dense.inputs :])


def matrix(dense: Dense) -> Float[Array, "in out"]:
    """Return the weights of a linear layer as one matrix."""
    kernel = dense.kernel[...]
    return kernel.reshape(math.prod(kernel.shape[: dense.inputs]), -1)


def at(names: tuple[str, ...], site: str, ctx: Context) -> tuple[str, int] | None:
    """Return which name a site of a layer belongs to, and which third of it; None: none.

    Sites of the stem and the embedding belong to none.
    """
    if ctx.layer is None:
        return None
    for name in names:
        for third, part in enumerate(parts_of(name)):
            if SITES[part] == site:
                return name, third
    return None


def inputs(x: Array, y: Array, ctx: Context) -> Float[Array, "... L in"]:
    """Return what entered the linear layer of a tap, flat, of the tokens whose output is y.

    In the last block queries are computed of the tokens that are pooled only.
    """
    tokens = y.ndim - (ctx.linear.kernel.ndim - ctx.linear.inputs) - 1  # the axis of tokens
    x = x.reshape(*x.shape[: x.ndim - ctx.linear.inputs], -1)
    return jax.lax.slice_in_dim(x, 0, y.shape[tokens], axis=tokens)


def third_of(v: Array, third: int, y: Array, ctx: Context) -> Array:
    """Return the share of a fused array's last axis that belongs to the layer that computed y."""
    width = matrix(ctx.linear).shape[1]
    return v[..., third * width : (third + 1) * width].astype(y.dtype)


def fold(
    backbone: Backbone,
    own: Mapping[str, Mapping[str, Any]],
    change: Callable,
    bias: bool = False,
) -> dict[str, Array]:
    """Return the changed weights and biases of linear layers, by names relative to the backbone.

    Args:
        backbone: of the model.
        own: by index of the block and name of a layer, what `change` takes.
        change: (own of the layer, slice of outputs, matrix [in, out], bias [out]) -> the new two.
        bias: whether the change needs a bias to go into.

    Raises:
        UserError: if a layer has no bias to take the change.
    """
    out = {}
    for i, names in own.items():
        for name, mine in names.items():
            start = 0
            for part in parts_of(name):
                dense = linear(backbone.layers[int(i)], part)
                w = matrix(dense).astype(jnp.float32)
                if bias and dense.bias is None:
                    raise UserError(
                        f"the method's shift cannot be folded into layer {i} of the backbone, as "
                        f"{part} has no bias; {KEEP}."
                    )
                old = jnp.zeros(w.shape[1]) if dense.bias is None else dense.bias[...].ravel()
                outputs = slice(start, start := start + w.shape[1])
                new, new_bias = change(mine, outputs, w, old)
                path = f"layers/{i}/{SITES[part].replace('.', '/')}"
                out[f"{path}/kernel"] = new.reshape(dense.kernel.shape)
                if dense.bias is not None:
                    out[f"{path}/bias"] = new_bias.reshape(dense.bias.shape)
    return out
