"""SA2VP: its prompt map, and how much of it one patch of an image attends to.

    image, the patch framed   |   prompt map, three principal components as colours   |
    attention of the class token, mean over layers

    below: the 3 x 3 prompts around the patch and their weights, a panel for every layer in which
    the image attends to prompts

Pei et al. 2024, arXiv 2312.10376, figures 1 and 4 in spirit.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vpjax.core.errors import UserError
from vpjax.models.model import Model
from vpjax.nn import local_attention
from vpjax.nn.context import EVALUATION
from vpjax.nn.stack import run_layers
from vpjax.report.plots.style import HEAT, INK, PALETTE, SIZE, SMALL, blank, describe, figure_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = 8  # layers at most


def prompt_map(
    model: Model,
    inputs: Float[Array, "1 H W C"],
    pixels: np.ndarray,
    patch: tuple[int, int] | None = None,
) -> "Figure":
    """Draw the prompt map of an SA2VP model, and what a patch attends to.

    Args:
        inputs: the image as the model takes it.
        pixels: the image to show, h w 3 or h w, uint8.
        patch: row and column; None: the middle.

    Raises:
        UserError: if the patch is outside the grid.
    """
    from matplotlib.patches import Rectangle

    method = model.method
    found, grid = reads(model, inputs)
    patch = patch or (grid[0] // 2, grid[1] // 2)
    if not (0 <= patch[0] < grid[0] and 0 <= patch[1] < grid[1]):
        raise UserError(f"patch {patch} is outside the grid of {grid[0]}x{grid[1]} patches")
    extra = model.backbone.num_prefix_tokens
    own = extra + patch[0] * grid[1] + patch[1]
    shown = dict(list(found.items())[-PANELS:])

    figure = figure_of(7.0, 4.9)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.7, 1))
    left, middle, right = top.subplots(1, 3)
    _picture(left, pixels, "image, one patch framed")
    height, width = (edge / n for edge, n in zip(pixels.shape[:2], grid, strict=True))
    corner = (patch[1] * width - 0.5, patch[0] * height - 0.5)
    left.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=PALETTE[1], linewidth=2))
    values = np.asarray(method.prompt(jnp.float32))[extra:]
    first = model.backbone.sites[0].grid
    _picture(middle, colours(values).reshape(*first, 3), "prompt map")
    if extra:
        rows = np.mean([weights[0, extra:] for weights in found.values()], axis=0)
        _picture(right, rows.reshape(grid), "attention of the class token")
    else:
        right.set_axis_off()
    bottom.suptitle("weights of the 3 x 3 prompts around the patch (%), by layer", fontsize=SIZE)
    for axes, (layer, weights) in zip(
        np.atleast_1d(bottom.subplots(1, len(shown))), shown.items(), strict=True
    ):
        whole = np.pad(weights[own, extra:].reshape(grid), 1, constant_values=np.nan)
        near = 100 * whole[patch[0] : patch[0] + 3, patch[1] : patch[1] + 3]
        _picture(axes, near, str(layer), vmin=0, vmax=100)
        for (row, column), value in np.ndenumerate(near):
            if np.isfinite(value):
                ink = "white" if value < 60 else INK
                axes.text(
                    column, row, f"{value:.0f}", ha="center", va="center", color=ink, size=SMALL
                )
    describe(
        bottom,
        "One image. Prompt map: its first three principal components as red, green and blue. "
        "Attention: means over heads, and above right over layers too; bright is high.",
    )
    return figure


def reads(
    model: Model, inputs: Float[Array, "1 H W C"]
) -> tuple[dict[int, np.ndarray], tuple[int, int]]:
    """Return tokens' attention to prompts by layer (L L, mean over heads), and the grid."""
    return reads_of(model)(inputs)


def reads_of(model: Model) -> Callable[[Float[Array, "1 H W C"]], tuple]:
    """Return the function `reads` of images alone, which is compiled for the first one only."""
    method, backbone = model.method, model.backbone
    sites = [s for s in backbone.sites if s.index in method.at]

    @jax.jit
    def heads(inputs):
        seen = {}

        def hook(site, y, x, ctx):
            y = method.tap(site, y, x, ctx)
            if site in ("cross.query", "cross.key"):
                seen[f"{ctx.layer} {site}"] = y
            return y

        ctx = dataclasses.replace(EVALUATION, hook=hook)
        run_layers(backbone.layers, method.start(backbone, inputs, ctx), method.step, ctx)
        return seen

    grid = sites[0].grid
    receiving = [s.index for s in sites if s.index not in method.to_prompt]

    def found(inputs):
        seen = heads(inputs)
        return {
            i: weights(seen[f"{i} cross.query"], seen[f"{i} cross.key"], grid, method.cross_attn)
            for i in receiving
        }, grid

    return found


def weights(q: Array, k: Array, grid: tuple[int, int], variant: str) -> np.ndarray:
    """Return the weights L L of `vpjax.nn.local_attention`, mean over heads."""
    q, k = (np.asarray(x[0], np.float64) for x in (q, k))  # L N d
    if variant == "acc":
        q, k = (x.reshape(len(x), 1, -1) for x in (q, k))
    seen = local_attention.neighbours(grid, len(k) - math.prod(grid))
    scores = np.einsum("qnd,knd->nqk", q, k) / math.sqrt(q.shape[-1])
    scores = np.where(seen, scores, -np.inf)
    highest = scores.max(-1, keepdims=True)
    if variant == "acc":
        highest = np.maximum(highest, 0)
    p = np.exp(scores - highest)
    total = p.sum(-1, keepdims=True)
    if variant == "acc":  # what lies outside the map weighs as a score of 0
        outside = np.where(np.arange(len(k)) < len(k) - math.prod(grid), 0, 9 - seen.sum(1))
        total = total + (outside[None, :, None] * np.exp(-highest))
    return (p / total).mean(0)


def colours(values: np.ndarray) -> np.ndarray:
    """Return the first three principal components of T D, each scaled to 0..1: T 3."""
    centred = values - values.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    parts = (u * s)[:, :3]
    parts = np.pad(parts, ((0, 0), (0, 3 - parts.shape[1])))
    low, high = parts.min(0), parts.max(0)
    return (parts - low) / np.maximum(high - low, 1e-12)


def _picture(axes: "Axes", values: np.ndarray, title: str, **limits) -> None:
    grey = values.ndim == 2 and values.dtype == np.uint8
    axes.imshow(values, cmap="gray" if grey else HEAT, interpolation="nearest", **limits)
    axes.set_title(title, fontsize=SIZE - 1, color=INK)
    blank(axes)
