"""What the arrays of a CLIP show by themselves: sizes, but neither heads nor activation.

Files of OpenAI's own models need no configuration, as all of them have quick GELUs and heads 64
wide. They are known by what the code of no one else writes: the scalars in OpenAI's archives, their
public file names, or the owner's name on the Hugging Face hub.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from vpjax.core.errors import UserError
from vpjax.weights import clip_names as names
from vpjax.weights.description import WeightsFile

Shapes = Mapping[str, tuple[int, ...]]

HEAD_DIM = 64  # width of an attention head in every CLIP of OpenAI
EPS = 1e-5  # of torch's LayerNorm, which every CLIP in OpenAI's names uses unless it says otherwise
# OpenAI's public names: width and layers of the vision tower, patch, positions.
RELEASED = {
    "ViT-B-32": (768, 12, 32, 50),
    "ViT-B-16": (768, 12, 16, 197),
    "ViT-L-14": (1024, 24, 14, 257),
    "ViT-L-14-336px": (1024, 24, 14, 577),
}


@dataclasses.dataclass(frozen=True)
class Tower:
    """A tower of a CLIP as file and configuration describe it.

    Attributes:
        kind: for people, with its article: "an OpenCLIP model".
        options: of `vpjax.backbones.clip.CLIP`, or of `vpjax.models.text.tower.TextTower`.
        open: options that nothing says.
    """

    kind: str
    options: dict[str, Any]
    open: tuple[str, ...] = ()


def vision_sizes(shapes: Shapes, path: Path) -> dict[str, Any]:
    """Return the options of the vision tower that shapes, by the hub's names, decide.

    `joint_dim` is 0 where there is no projection; `image_size` is left out where positions make no
    square.
    Raises: UserError if an array is missing; `path` is for the message.
    """
    sizes = _sizes(shapes, names.VISION, "visual_projection.weight", path)
    kernel = _shape(shapes, f"{names.VISION}embeddings.patch_embedding.weight", path)
    cells = _shape(shapes, f"{names.VISION}embeddings.position_embedding.weight", path)[0] - 1
    patch = kernel[-1] if kernel[-1] == kernel[-2] else tuple(kernel[-2:])
    edge = math.isqrt(cells)
    if edge * edge == cells and isinstance(patch, int):
        sizes["image_size"] = patch * edge
    return sizes | {"patch_size": patch, "channels": kernel[1]}


def text_sizes(shapes: Shapes, path: Path) -> dict[str, Any]:
    """Return the options of the text tower that shapes, by the hub's names, decide.

    Raises: UserError if an array is missing; `path` is for the message.
    """
    sizes = _sizes(shapes, names.TEXT, "text_projection.weight", path)
    context = _shape(shapes, f"{names.TEXT}embeddings.position_embedding.weight", path)[0]
    return sizes | {"vocab": shapes[names.TEXT_MARK][0], "context": context}


def _sizes(shapes: Shapes, tower: str, projection: str, path: Path) -> dict[str, Any]:
    mlp_dim, dim = _shape(shapes, f"{tower}encoder.layers.0.mlp.fc1.weight", path)
    layers = {n.split(".")[3] for n in shapes if n.startswith(f"{tower}encoder.layers.")}
    joint = shapes[projection][0] if projection in shapes else 0
    return {"dim": dim, "mlp_dim": mlp_dim, "depth": len(layers), "joint_dim": joint}


def _shape(shapes: Shapes, name: str, path: Path) -> tuple[int, ...]:
    if name not in shapes:
        raise UserError(f"weights {path} are of a CLIP, but have no {name}")
    return shapes[name]


def openai_reason(file: WeightsFile, shapes: Shapes) -> str:
    """Return how a file is known to be OpenAI's own, such as "by its file name"; "" if it is not.

    Args:
        file: as it was found.
        shapes: of its arrays, by the hub's names.
    """
    if "input_resolution" in file.shapes and "context_length" in file.shapes:
        return "by the scalars of OpenAI's archives"
    places = (file.where, str(file.path))
    if file.where.startswith("openai/clip-") or any("models--openai--clip-" in p for p in places):
        return "by its name on the Hugging Face hub"
    name = PurePath(file.path).name
    match = re.fullmatch(r"(ViT-[BL]-\d\d(?:-336px)?)\.(pt|npz|safetensors)", name)
    if match is None or match[1] not in RELEASED:
        return ""
    return "by its file name" if _fits(shapes, RELEASED[match[1]]) else ""


def _fits(shapes: Shapes, released: tuple[int, int, int, int]) -> bool:
    dim, layers, patch, positions = released
    kernel = shapes.get(f"{names.VISION}embeddings.patch_embedding.weight")
    table = shapes.get(f"{names.VISION}embeddings.position_embedding.weight")
    last = f"{names.VISION}encoder.layers.{layers - 1}.mlp.fc1.weight"
    beyond = f"{names.VISION}encoder.layers.{layers}.mlp.fc1.weight"
    return (
        (kernel, table) == ((dim, 3, patch, patch), (positions, dim))
        and last in shapes
        and beyond not in shapes
    )
