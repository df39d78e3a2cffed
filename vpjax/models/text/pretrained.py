"""A pretrained CLIP as its folder or file describes it: sizes of both towers, the text tower.

    found = open_clip("/models/clip-vit-base-patch16")      config.json, else shapes of the arrays
    CLIP(**found.vision, rngs=rngs)                         options; weights by weights.load
    tower = load_text("/models/clip-vit-base-patch16")      with weights

`config.backbone.weights` does the first two by itself. Old files of the hub have the sizes of the
towers under "text_config_dict" and "vision_config_dict"; where both forms are there, these count,
as they do for the library that wrote them.
"""

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx

from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.models.text.tower import HEAD, TextTower
from vpjax.weights import clip
from vpjax.weights.download import fetch, sha256
from vpjax.weights.formats import read
from vpjax.weights.hub import folder_of, weights_in
from vpjax.weights.load import check

# Our options, and the keys of a tower's part of config.json with their defaults on the hub.
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
# The hub leaves out what equals its class's default, which is B/32's.
DEFAULTS = {
    "vision": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    | {"num_hidden_layers": 12, "patch_size": 32},
    "text": {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    | {"num_hidden_layers": 12},
}


class Pretrained(NamedTuple):
    """Options of `backbones.clip.CLIP` and of `TextTower`; {} for a tower that is not there."""

    vision: dict[str, Any]
    text: dict[str, Any]


class Text(NamedTuple):
    """A text tower with weights, and where they come from."""

    tower: TextTower
    scale: float | None  # exp(logit_scale): 100 in trained models; None: not in the file
    path: Path
    sha256: str


def open_clip(where: str, head: int = HEAD) -> Pretrained:
    """Returns the sizes of a CLIP: a folder, a file, an address, or a name of the hub.

    A config.json in the folder says them, or else the shapes of the arrays; these leave the width
    of a `head` open, which is 64 in every released model.
    Raises: UserError if there is no such file, or it describes no CLIP.
    """
    folder = folder_of(where)
    if folder is not None and (folder / "config.json").is_file():
        return read_config(folder / "config.json")
    path = fetch(weights_in(where))
    return of_shapes(_shapes(path, path.stat().st_mtime_ns), head, path)


def read_config(path: Path) -> Pretrained:
    """Reads a config.json of the hub.

    Raises: UserError if it is no JSON, or not of a CLIP.
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
    return Pretrained(
        *(_options(config, tower, table) for tower, table in (("vision", VISION), ("text", TEXT)))
    )


def _options(config: dict, tower: str, table: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    part = DEFAULTS[tower] | (config.get(f"{tower}_config") or {})
    part |= config.get(f"{tower}_config_dict") or {}
    out = {ours: part.get(theirs, default) for ours, (theirs, default) in table.items()}
    return out | {"joint_dim": config.get("projection_dim", 512)}


@functools.lru_cache(maxsize=4)
def _shapes(path: Path, changed: int) -> dict[str, tuple[int, ...]]:
    arrays = read(path)
    if not clip.recognises(arrays):
        raise UserError(
            f"weights {path} are no CLIP; names look like {', '.join(list(arrays)[:3])}"
        )
    return {n: a.shape for n, a in clip.to_hub(arrays).items()}


def of_shapes(shapes: Mapping[str, tuple[int, ...]], head: int, path: Path) -> Pretrained:
    """Reads the sizes of towers off the shapes of their arrays, by the hub's names.

    Raises: UserError for a width that heads do not divide.
    """
    try:
        return Pretrained(
            _vision_of(shapes, head, path) if clip.VISION_MARK in shapes else {},
            _text_of(shapes, head, path) if clip.TEXT_MARK in shapes else {},
        )
    except KeyError as e:
        raise UserError(f"weights {path} are of a CLIP, but have no {e.args[0]}") from e


def _vision_of(shapes: Mapping[str, tuple[int, ...]], head: int, path: Path) -> dict[str, Any]:
    patch = shapes["vision_model.embeddings.patch_embedding.weight"][-1]
    cells = shapes["vision_model.embeddings.position_embedding.weight"][0] - 1
    own = {"patch_size": patch, "image_size": patch * math.isqrt(cells)}
    return _tower_of(shapes, clip.VISION, "visual_projection.weight", head, path) | own


def _text_of(shapes: Mapping[str, tuple[int, ...]], head: int, path: Path) -> dict[str, Any]:
    vocab = shapes[clip.TEXT_MARK][0]
    context = shapes["text_model.embeddings.position_embedding.weight"][0]
    own = {"vocab": vocab, "context": context}
    return _tower_of(shapes, clip.TEXT, "text_projection.weight", head, path) | own


def _tower_of(
    shapes: Mapping[str, tuple[int, ...]], tower: str, projection: str, head: int, path: Path
) -> dict[str, Any]:
    mlp_dim, dim = shapes[f"{tower}encoder.layers.0.mlp.fc1.weight"]
    if dim % head:
        raise UserError(
            f"weights {path}: a width of {dim} does not divide into heads {head} wide. Put the "
            "model's config.json beside the file: arrays do not say how many heads they have."
        )
    layers = {n.split(".")[3] for n in shapes if n.startswith(f"{tower}encoder.layers.")}
    sizes = {"dim": dim, "mlp_dim": mlp_dim, "heads": dim // head, "depth": len(layers)}
    return sizes | {"joint_dim": shapes[projection][0]}


def load_text(where: str, head: int = HEAD, **options: Any) -> Text:
    """Builds the text tower of a CLIP with its weights; `options` replace what the file says.

    `head` is as in `open_clip`.

    Raises: UserError if there is no such file, or it holds no text tower, or does not fit.
    """
    path = fetch(weights_in(where))
    found = open_clip(where, head).text
    if not found:
        raise UserError(f"weights {path} hold no text tower. Give the file of a whole CLIP.")
    graph, state = nnx.split(nnx.eval_shape(lambda: TextTower(**found | options, rngs=nnx.Rngs(0))))
    expected = params.flatten(state)
    arrays = read(path)
    values = clip.translate(arrays, expected, clip.TEXT)
    scale = values.get("unused/logit_scale")
    values = {n: v for n, v in values.items() if not n.startswith("unused/")}
    check(values, expected, path)
    values = {n: jnp.asarray(values[n], jnp.float32) for n in expected}
    tower = nnx.merge(graph, params.fill(state, values))
    return Text(tower, None if scale is None else math.exp(scale.item()), path, sha256(path))
