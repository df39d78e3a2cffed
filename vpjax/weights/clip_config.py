"""Sizes of a pretrained CLIP, from the config.json beside its weights or from its arrays.

    found = read_clip_config("/models/clip-vit-base-patch16")
    CLIP(**found.vision, rngs=rngs)         vpjax.backbones.clip
    TextTower(**found.text, rngs=rngs)      vpjax.models.text.tower

Old files of the Hugging Face hub have the sizes of the towers under "text_config_dict" and
"vision_config_dict". Where both forms are present these count, as they do for the library that
wrote them.
"""

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vpjax.core.errors import UserError
from vpjax.weights import clip
from vpjax.weights.download import fetch
from vpjax.weights.formats import read
from vpjax.weights.hub import folder_of, weights_in

HEAD_DIM = 64  # width of an attention head in every released CLIP
# Our options: the key in a tower's part of config.json, and the hub's default for it.
COMMON = {
    "dim": ("hidden_size", None),
    "mlp_dim": ("intermediate_size", None),
    "heads": ("num_attention_heads", None),
    "depth": ("num_hidden_layers", None),
    "eps": ("layer_norm_eps", 1e-5),
    "activation": ("hidden_act", "quick_gelu"),
}
VISION = COMMON | {"image_size": ("image_size", 224), "patch_size": ("patch_size", None)}
TEXT = COMMON | {"vocab": ("vocab_size", 49408), "context": ("max_position_embeddings", 77)}
# The hub leaves out what equals the defaults of its classes, which are those of B/32.
DEFAULTS = {
    "vision": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    | {"num_hidden_layers": 12, "patch_size": 32},
    "text": {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    | {"num_hidden_layers": 12},
}


class ClipConfig(NamedTuple):
    """Options of both towers; {} for a tower that the file does not hold."""

    vision: dict[str, Any]  # of vpjax.backbones.clip.CLIP
    text: dict[str, Any]  # of vpjax.models.text.tower.TextTower


def read_clip_config(where: str, head_dim: int = HEAD_DIM) -> ClipConfig:
    """Return the sizes of a CLIP.

    Args:
        where: a folder, a file of weights, an address, or a name of the Hugging Face hub. A
            config.json in the folder counts; without one, the shapes of the arrays.
        head_dim: width of an attention head, which the shapes of arrays leave open.

    Raises:
        UserError: if there is no such file, or it does not describe a CLIP.
    """
    folder = folder_of(where)
    if folder is not None and (folder / "config.json").is_file():
        return from_json(folder / "config.json")
    path = fetch(weights_in(where))
    return from_shapes(_shapes(path, path.stat().st_mtime_ns), head_dim, path)


def from_json(path: Path) -> ClipConfig:
    """Return the sizes that a config.json of the hub gives.

    Raises: UserError if it is not JSON, or not of a CLIP.
    """
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path} is damaged: {e}") from e
    kind = config.get("model_type", "clip") if isinstance(config, dict) else None
    if kind != "clip" or not any(f"{tower}_config" in config for tower in DEFAULTS):
        raise UserError(
            f"{path} describes no CLIP (model_type {kind!r}). Give the folder of a CLIP, or a file "
            "of weights in a folder without a config.json."
        )
    return ClipConfig(
        *(_options(config, tower, table) for tower, table in (("vision", VISION), ("text", TEXT)))
    )


def _options(config: dict, tower: str, table: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    part = DEFAULTS[tower] | (config.get(f"{tower}_config") or {})
    part |= config.get(f"{tower}_config_dict") or {}
    out = {ours: part.get(theirs, default) for ours, (theirs, default) in table.items()}
    return out | {"joint_dim": config.get("projection_dim", 512)}


@functools.lru_cache(maxsize=4)
def _shapes(path: Path, modified_ns: int) -> dict[str, tuple[int, ...]]:
    arrays = read(path)
    if not clip.recognises(arrays):
        raise UserError(
            f"weights {path} are no CLIP; names look like {', '.join(list(arrays)[:3])}"
        )
    return {n: a.shape for n, a in clip.to_hub(arrays).items()}


def from_shapes(shapes: Mapping[str, tuple[int, ...]], head_dim: int, path: Path) -> ClipConfig:
    """Return the sizes that the shapes of arrays give, by the hub's names.

    Raises: UserError for a width that `head_dim` does not divide; `path` is for the message.
    """
    try:
        return ClipConfig(
            _vision_of(shapes, head_dim, path) if clip.VISION_MARK in shapes else {},
            _text_of(shapes, head_dim, path) if clip.TEXT_MARK in shapes else {},
        )
    except KeyError as e:
        raise UserError(f"weights {path} are of a CLIP, but have no {e.args[0]}") from e


def _vision_of(shapes: Mapping[str, tuple[int, ...]], head_dim: int, path: Path) -> dict[str, Any]:
    patch = shapes["vision_model.embeddings.patch_embedding.weight"][-1]
    cells = shapes["vision_model.embeddings.position_embedding.weight"][0] - 1
    own = {"patch_size": patch, "image_size": patch * math.isqrt(cells)}
    return _tower_of(shapes, clip.VISION, "visual_projection.weight", head_dim, path) | own


def _text_of(shapes: Mapping[str, tuple[int, ...]], head_dim: int, path: Path) -> dict[str, Any]:
    vocab = shapes[clip.TEXT_MARK][0]
    context = shapes["text_model.embeddings.position_embedding.weight"][0]
    own = {"vocab": vocab, "context": context}
    return _tower_of(shapes, clip.TEXT, "text_projection.weight", head_dim, path) | own


def _tower_of(
    shapes: Mapping[str, tuple[int, ...]], tower: str, projection: str, head_dim: int, path: Path
) -> dict[str, Any]:
    mlp_dim, dim = shapes[f"{tower}encoder.layers.0.mlp.fc1.weight"]
    if dim % head_dim:
        raise UserError(
            f"weights {path}: a width of {dim} does not divide into heads {head_dim} wide. Put the "
            "model's config.json beside the file: arrays do not tell the number of heads."
        )
    layers = {n.split(".")[3] for n in shapes if n.startswith(f"{tower}encoder.layers.")}
    sizes = {"dim": dim, "mlp_dim": mlp_dim, "heads": dim // head_dim, "depth": len(layers)}
    return sizes | {"joint_dim": shapes[projection][0]}
