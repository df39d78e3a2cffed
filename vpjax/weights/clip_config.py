"""Sizes and options of a pretrained CLIP, from the configuration beside its weights.

    found = read_clip_config("/models/clip-vit-base-patch16")
    CLIP(**found.vision, rngs=rngs)         vpjax.backbones.clip
    TextTower(**found.text, rngs=rngs)      vpjax.models.text.tower

Read are config.json of transformers (`vpjax.weights.clip_transformers`) and OpenCLIP's
open_clip_config.json (`vpjax.weights.clip_open`). Without either the arrays show all sizes, but
neither the number of heads nor the activation, which are then left open, but for OpenAI's own
models, all of which have the same (`vpjax.weights.clip_shapes`).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vpjax.core.errors import UserError
from vpjax.weights import clip_names as names
from vpjax.weights import clip_open, clip_shapes, clip_transformers, clip_trunk
from vpjax.weights.anchor import choose, split
from vpjax.weights.clip_shapes import Shapes, Tower
from vpjax.weights.description import WeightsFile
from vpjax.weights.download import fetch
from vpjax.weights.formats import read, shapes
from vpjax.weights.hub import configuration, weights_in


class ClipConfig(NamedTuple):
    """Options of both towers; {} for a tower that the file does not hold."""

    vision: dict[str, Any]  # of vpjax.backbones.clip.CLIP
    text: dict[str, Any]  # of vpjax.models.text.tower.TextTower


def read_clip_config(where: str) -> ClipConfig:
    """Return the options of both towers of a CLIP, as far as anything says them.

    Args:
        where: a folder, a file of weights, an address, or a name of the Hugging Face hub.

    Raises:
        UserError: if there is no such file, it does not describe a CLIP, or one that is not
            supported.
    """
    file = look(where)
    vision, text = vision_of(file), text_of(file)
    return ClipConfig(vision.options if vision else {}, text.options if text else {})


def vision_of(file: WeightsFile) -> Tower | None:
    """Return what is known of the image encoder; None if the file does not hold one.

    Raises: UserError if it is another than a ViT of CLIP's, or not supported.
    """
    if names.RESNET_MARK in file.shapes:
        raise UserError(
            f"weights {file.path}: a CLIP whose image encoder is a ResNet, which is not supported. "
            "Choose a CLIP with a ViT."
        )
    if any(n.startswith(names.MOBILE_MARK) for n in file.shapes):
        raise UserError(
            f"weights {file.path}: a MobileCLIP, whose image encoder is no ViT, which is not "
            "supported. Choose a CLIP with a ViT."
        )
    if any(n.startswith(names.TRUNK) for n in file.shapes):
        return clip_trunk.vision(file)
    in_hub = names.shapes_in_hub(file.shapes)
    if names.VISION_MARK not in in_hub:
        return None
    sizes = functools.partial(clip_shapes.vision_sizes, in_hub, file.path)
    return _tower(file, in_hub, "vision", sizes)


def text_of(file: WeightsFile) -> Tower | None:
    """Return what is known of the text encoder; None if the file does not hold one.

    Raises: UserError if it is another than CLIP's, or not supported.
    """
    in_hub = names.shapes_in_hub(file.shapes)
    if names.TEXT_MARK not in in_hub:
        if file.library == "open_clip" and any(n.startswith("text.") for n in file.shapes):
            path = file.path.parent / clip_open.FILE
            clip_open.text(clip_open.model_cfg(file.config, path), {}, path)
        return None
    sizes = functools.partial(clip_shapes.text_sizes, in_hub, file.path)
    return _tower(file, in_hub, "text", sizes)


def _tower(
    file: WeightsFile, in_hub: Shapes, tower: str, sizes: Callable[[], dict[str, Any]]
) -> Tower:
    if file.library == "transformers":
        path = file.path.parent / "config.json"
        projected = f"{'visual' if tower == 'vision' else 'text'}_projection.weight" in in_hub
        kind = (file.config.get("architectures") or ["CLIPModel"])[0]
        options = clip_transformers.options(file.config, tower, projected, path)
        return Tower(f"a transformers {kind}", options)
    if file.library == "open_clip":
        path = file.path.parent / clip_open.FILE
        model = clip_open.model_cfg(file.config, path)
        options = getattr(clip_open, tower)(model, sizes(), path)
        return Tower("an OpenCLIP model", options)
    known = sizes()
    if tower == "vision":
        known["pre_norm"] = f"{names.VISION}pre_layrnorm.weight" in in_hub
    layer = f"{names.TEXT if tower == 'text' else names.VISION}encoder.layers.0"
    known["layer_scale"] = f"{layer}.ls_1.gamma" in in_hub
    reason = clip_shapes.openai_reason(file, in_hub)
    if reason and known["dim"] % clip_shapes.HEAD_DIM == 0:
        known |= {"heads": known["dim"] // clip_shapes.HEAD_DIM, "eps": clip_shapes.EPS}
        return Tower(f"a CLIP of OpenAI, known {reason}", known | {"activation": "quick_gelu"})
    kind = "a CLIP of unknown origin"
    unsaid = ("heads", "activation")
    if tower == "vision" and "image_size" not in known:
        unsaid += ("image_size",)
    return Tower(kind, known | {"eps": clip_shapes.EPS}, unsaid)


def look(where: str) -> WeightsFile:
    """Return what is found of a CLIP: names and shapes, and the configuration that belongs to them.

    Raises: UserError if there is no such file, or it is no CLIP.
    """
    path = fetch(weights_in(where))
    found = shapes(path)
    chosen = choose(found, [names], split(where)[1], path)
    taken = {ours: found[name] for name, ours in chosen.names.items()}
    if not names.recognises(taken):
        raise UserError(f"weights {path} are no CLIP; names look like {', '.join(list(found)[:3])}")
    return WeightsFile(where, path, taken, chosen.prefix, *configuration(path, taken))


def arrays_of(file: WeightsFile) -> dict[str, np.ndarray]:
    """Return the arrays of a file by the names that it was found with."""
    pick = lambda found: choose(found, [names], file.stripped, file.path).names  # noqa: E731
    return read(file.path, pick)
