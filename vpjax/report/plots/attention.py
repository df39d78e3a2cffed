"""What the class token of a ViT attends to, and how much of that are prompts.

    image   |   last layer, mean over heads   |   rollout over all layers
    below: the shares of class token, prompts and patches in that attention, by layer

Rollout (Abnar and Zuidema 2020, arXiv 2005.00928): the product over layers of (attention + 1) / 2,
attention being the mean over heads. Prompts are left out and rows divided by their sum, because
prompts of a layer do not come from the layer before.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from vpjax.models.model import Model
from vpjax.models.partition import merge
from vpjax.report.plots.gradcam import resized
from vpjax.report.plots.style import (
    HEAT,
    INK,
    PALETTE,
    SIZE,
    SMALL,
    blank,
    describe,
    figure_of,
    plain,
)
from vpjax.report.plots.subject import Subject, watched

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SITES = ("attn.query", "attn.key")


class Seen(NamedTuple):
    """Attention of one layer, mean over heads; class token first, then patches.

    Attributes:
        own: attention between class token and patches.
        prompts: attention to prompts; with it rows of `own` add up to 1.
    """

    own: Float[np.ndarray, "Q S"]
    prompts: Float[np.ndarray, " Q"]


def applies(subject: Subject) -> bool:
    """Return whether `seen_by` can look into a run's backbone."""
    return has_scores(subject.model)


def has_scores(model: Model) -> bool:
    """Return whether the backbone has a class token, and queries and keys are all scores need."""
    backbone = model.backbone
    if getattr(backbone, "cls_token", None) is None or not backbone.taps.issuperset(SITES):
        return False
    normalised = any(layer.attn.query_norm for layer in backbone.layers)
    return not (normalised or backbone.positions_in_layers)


def attention(parts: tuple, images: Float[Array, "1 H W C"]) -> list[Seen]:
    """Return the attention of class token and patches in every layer.

    Args:
        parts: the arguments of `vpjax.models.partition.merge`.

    Returns:
        A layer each. Q is 1 + h w, or 1 in a layer that computes its class token only.
    """
    return seen_by(parts)(images)


def seen_by(parts: tuple) -> Callable[[Float[Array, "1 H W C"]], list[Seen]]:
    """Return the function `attention` of images alone, which is compiled for the first one only."""
    graph, *numbers = parts
    model = merge(*parts)
    extra, patches = model.backbone.num_prefix_tokens, math.prod(model.backbone.grid)

    @jax.jit
    def look(images, *numbers):
        found = [{site: [] for site in SITES} for _ in model.backbone.layers]

        def see(site, y, ctx):
            if site in SITES and ctx.layer is not None:
                found[ctx.layer][site].append(y.reshape(-1, *y.shape[-3:])[0])  # L N d
            return y

        watched(merge(graph, *numbers), images, see)
        return found

    def seen(images):
        out = []
        for layer in jax.device_get(look(images, *numbers)):
            (q, *_), (own, *read) = (layer[site] for site in SITES)
            weights = _softmax(q, np.concatenate([own, *read]))
            length = len(own)
            columns = [*range(extra), *range(length - patches, length)]
            rows = columns if len(q) == length else [*range(min(extra, len(q)))]
            kept = weights[np.ix_(rows, columns)]
            out.append(Seen(kept, 1 - kept.sum(-1)))
        return out

    return seen


def _softmax(q: np.ndarray, k: np.ndarray) -> Float[np.ndarray, "Q S"]:
    """Return softmax(q k^T / sqrt(d)) of L N d each, mean over heads."""
    q, k = q.astype(np.float64), k.astype(np.float64)
    scores = np.einsum("qnd,knd->nqk", q, k) / math.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)).mean(0)


def rollout(layers: list[Seen]) -> Float[np.ndarray, " S"]:
    """Return the class token's attention to the tokens that entered the first layer."""
    out = np.zeros(layers[0].own.shape[1])
    out[0] = 1.0
    for layer in reversed(layers):
        rows = layer.own / layer.own.sum(-1, keepdims=True)
        # A last layer that computes the class token only has one row.
        out = 0.5 * out + 0.5 * out[: len(rows)] @ rows
    return out


def attention_maps(subject: Subject) -> "Figure":
    """Draw what the class token attends to in one image, and the shares by layer."""
    inputs, pixels = subject.example
    backbone = subject.model.backbone
    layers, extra = attention(subject.parts, inputs), backbone.num_prefix_tokens
    figure = figure_of(6.6, 4.7)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.35, 1))
    left, middle, right = top.subplots(1, 3)
    left.imshow(pixels, cmap="gray", interpolation="nearest", vmin=0, vmax=255)
    left.set_title("image", fontsize=SIZE - 1, color=INK)
    blank(left)
    for axes, row, title in (
        (middle, layers[-1].own[0], f"layer {len(layers) - 1}, mean of heads"),
        (right, rollout(layers), "rollout over layers"),
    ):
        values = row[extra:].reshape(backbone.grid)
        axes.imshow(resized(values, pixels.shape[:2]), cmap=HEAT)
        axes.set_title(
            f"{title}\n{values.min():.1%} to {values.max():.1%} a patch", fontsize=SIZE - 1
        )
        blank(axes)
    shares(bottom.subplots(), layers, extra)
    describe(
        bottom,
        f"One image: {subject.where}; means over heads. Bars: where the attention of the class "
        "token goes in each layer, in percent; the numbers are the share of prompts.",
    )
    return figure


def shares(axes: "Axes", layers: list[Seen], extra: int) -> None:
    """Draw a bar for each layer: class token, prompts, patches."""
    plain(axes)
    axes.grid(axis="x", visible=False)
    own = np.array([layer.own[0, :extra].sum() for layer in layers])
    prompts = np.array([layer.prompts[0] for layer in layers])
    parts = [("patches", 1 - own - prompts, 4), ("class token", own, 2)]
    if prompts.max() > 1e-9:
        parts.insert(0, ("prompts", prompts, 1))
    bottom = np.zeros(len(layers))
    for name, values, colour in parts:
        axes.bar(
            range(len(layers)), 100 * values, 0.8, 100 * bottom, color=PALETTE[colour], label=name
        )
        bottom += values
    if prompts.max() > 1e-9:
        for i, value in enumerate(100 * prompts):
            axes.text(i, value + 1, f"{value:.0f}", ha="center", size=SMALL, color=INK)
    axes.set_xticks(range(len(layers)))
    axes.set_ylim(0, 100)
    axes.set_xlabel("layer", fontsize=SIZE)
    axes.set_ylabel("attention of the\nclass token (%)", fontsize=SIZE)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=SIZE - 1, frameon=False)
