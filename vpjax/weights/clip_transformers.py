"""Options of a CLIP from the config.json of transformers.

Known are `CLIPModel`, and `CLIPVisionModel`, `CLIPVisionModelWithProjection` and the same for text,
whose files hold one tower. Old files have the sizes of the towers under "text_config_dict" and
"vision_config_dict". Where both forms are present these count, as they do for the library that
wrote them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpjax.core.errors import UserError

KINDS = ("clip", "clip_vision_model", "clip_text_model")
# Activations by the names of transformers.
ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
# Our options: the key in a tower's part of config.json, and the hub's default for it.
COMMON = {
    "dim": ("hidden_size", None),
    "mlp_dim": ("intermediate_size", None),
    "heads": ("num_attention_heads", None),
    "depth": ("num_hidden_layers", None),
    "eps": ("layer_norm_eps", 1e-5),
    "activation": ("hidden_act", "quick_gelu"),
}
OPTIONS = {
    "vision": COMMON | {"image_size": ("image_size", 224), "patch_size": ("patch_size", None)},
    "text": COMMON | {"vocab": ("vocab_size", 49408), "context": ("max_position_embeddings", 77)},
}
# The hub leaves out what equals the defaults of its classes, which are those of B/32.
DEFAULTS = {
    "vision": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    | {"num_hidden_layers": 12, "patch_size": 32},
    "text": {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    | {"num_hidden_layers": 12},
}
LARGEST = 2  # eos_token_id of old files, by which transformers means the largest id of a text
END = 49407  # the id in CLIP's tokenizer


def check_kind(config: Mapping[str, Any], path: Path) -> None:
    """Raise a UserError if a config.json is not of a CLIP."""
    kind = config.get("model_type", "clip")
    towers = any(f"{tower}_config" in config for tower in DEFAULTS)
    if kind not in KINDS or (kind == "clip" and not towers):
        raise UserError(
            f"{path} describes no CLIP (model_type {kind!r}). Give the folder of a CLIP, or a file "
            "of weights in a folder without a config.json."
        )


def options(config: Mapping[str, Any], tower: str, projected: bool, path: Path) -> dict[str, Any]:
    """Return the options of a tower.

    Args:
        config: what config.json says.
        tower: "vision" or "text".
        projected: whether the file holds the tower's projection.
        path: of the config.json, for messages.

    Raises:
        UserError: if it is of another model, or names what does not exist here.
    """
    check_kind(config, path)
    part = DEFAULTS[tower] | part_of(config, tower)
    out = {ours: part.get(theirs, default) for ours, (theirs, default) in OPTIONS[tower].items()}
    if out["activation"] not in ACTIVATIONS:
        raise UserError(
            f"{path}: hidden_act is {out['activation']!r}, which is not supported; known are "
            f"{', '.join(ACTIVATIONS)}."
        )
    out["activation"] = ACTIVATIONS[out["activation"]]
    if tower == "vision" and part.get("num_channels", 3) != 3:
        out["channels"] = part["num_channels"]
    if tower == "text":
        end, last = part.get("eos_token_id", LARGEST), out["vocab"] - 1
        if end not in (LARGEST, last) and not end == END > last:
            raise UserError(
                f"{path}: eos_token_id is {end}; features of texts are read at the largest id, "
                f"which is {last} here. Such a text tower is not supported."
            )
    alone = config.get("model_type") == f"clip_{tower}_model"
    joint = config.get("projection_dim", 512) if projected or not alone else 0
    return out | {"joint_dim": joint}


def part_of(config: Mapping[str, Any], tower: str) -> dict[str, Any]:
    """Return what a config says of one tower; {} if it says nothing."""
    if config.get("model_type") == f"clip_{tower}_model":
        return dict(config)
    return (config.get(f"{tower}_config") or {}) | (config.get(f"{tower}_config_dict") or {})
