"""Maps over one photo of what a model looks at, for `vpjax.report.demo`.

    prompts        a ViT with prompts: how much of its attention each patch gives to them
    prompt map     SA2VP: the attention of the class token to the map of prompts
    class token    a ViT: what its class token attends to in the last layer
    Grad-CAM       every model: which part speaks for the class that is predicted

They are those of `vpjax.report.plots`; what fits a method best comes first.
"""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from vpjax.core.errors import UserError
from vpjax.methods.sa2vp import SA2VP
from vpjax.models.partition import ModelParts, merge
from vpjax.report.plots import attention, gradcam, prompt_map

SOME = 1e-9  # share of attention from which on there are prompts


class Map(NamedTuple):
    """A map over a photo.

    Attributes:
        name: such as "Grad-CAM".
        text: what it shows, and its lowest and highest value.
        values: of the model's grid.
    """

    name: str
    text: str
    values: Float[np.ndarray, "h w"]


class Asked(NamedTuple):
    """What maps are made of: the photo as the model takes it, and the class they are of."""

    inputs: Float[Array, "1 H W C"]
    label: int
    class_name: str


Look = Callable[[Asked], list[Map]]


class Lookers(NamedTuple):
    """What makes the maps of photos.

    Attributes:
        all: functions, each compiled for the first photo only.
        canvas: height and width that maps span: those of the photo, or more with a frame around it.
    """

    all: list[Look]
    canvas: tuple[int, int]


def lookers(parts: ModelParts, inputs: Float[Array, "1 H W C"]) -> Lookers:
    """Return what makes the maps of photos.

    Args:
        parts: the trained model.
        inputs: like those that they will get.
    """
    model = merge(*parts)
    out: list[Look] = []
    if isinstance(model.method, SA2VP):
        out.append(_map_of_prompts(model))
    elif attention.has_scores(model):
        out.append(_attention(parts, model))
    with contextlib.suppress(UserError):  # a backbone without sites that have maps
        out.append(_gradcam(parts, inputs))
    return Lookers(out, tuple(model.backbone.image_size))


def maps_of(looks: Lookers, asked: Asked) -> list[Map]:
    """Return the maps of a photo, the best first: Grad-CAM before that of the class token alone.

    Args:
        looks: see `lookers`.
        asked: the photo.
    """
    found = [_inside(found, asked, looks.canvas) for look in looks.all for found in look(asked)]
    return sorted(found, key=lambda m: not m.name.startswith("Prompt") and m.name != "Grad-CAM")


def _inside(found: Map, asked: Asked, canvas: tuple[int, int]) -> Map:
    """Return the part of a map that lies on the photo, where prompts are a frame around it."""
    size = asked.inputs.shape[1:3]
    top, left = ((whole - edge) // 2 for whole, edge in zip(canvas, size, strict=True))
    if top <= 0 and left <= 0:
        return found
    values = gradcam.resized(found.values, canvas)
    return found._replace(values=values[top : top + size[0], left : left + size[1]])


def _attention(parts, model) -> Look:
    seen, extra, grid = (
        attention.seen_by(parts),
        model.backbone.num_prefix_tokens,
        model.backbone.grid,
    )

    def look(asked):
        layers = seen(asked.inputs)
        last = layers[-1]
        out = []
        whole = [x.prompts[extra:] for x in layers if len(x.own) > extra and x.prompts.max() > SOME]
        if whole:
            values = np.mean(whole, axis=0)
            text = "How much of its attention each patch gives to the prompts: "
            text += f"{_span(values)}, mean over heads and {_count(len(whole), 'layer')}."
            out.append(Map("Prompts", text, values.reshape(grid)))
        values = last.own[0, extra:]
        text = f"What the class token attends to in the last layer: {_span(values)} a patch, mean "
        text += "over heads."
        if last.prompts.max() > SOME:
            text += f" Another {100 * last.prompts[0]:.0f} % goes to the prompts."
        return [*out, Map("Class token", text, values.reshape(grid))]

    return look


def _map_of_prompts(model) -> Look:
    reads, extra = prompt_map.reads_of(model), model.backbone.num_prefix_tokens

    def look(asked):
        found, grid = reads(asked.inputs)
        rows = [w[0, extra:] if extra else w.mean(0) for w in found.values()]
        values = np.mean(rows, axis=0)
        whose = "the class token" if extra else "the patches"
        text = f"The attention of {whose} to the prompts, which lie on a map as patches do: "
        text += f"{_span(values)}, mean over heads and {_count(len(rows), 'layer')}."
        return [Map("Prompt map", text, values.reshape(grid))]

    return look


def _gradcam(parts, inputs) -> Look:
    cam = gradcam.cam_of(tuple(parts), inputs)

    def look(asked):
        found = cam(asked.inputs, asked.label)
        h, w = found.map.shape
        text = f"Which part of the photo speaks for {asked.class_name}: the gradient of its logit "
        text += f"at {found.target}, {h} × {w} cells."
        if not found.raw.max() > 0:
            text += " Nothing here does: the map is empty."
        return [Map("Grad-CAM", text, found.map)]

    return look


def _span(values: np.ndarray) -> str:
    return f"{100 * values.min():.1f} to {100 * values.max():.1f} %"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + "s" * (n != 1)
