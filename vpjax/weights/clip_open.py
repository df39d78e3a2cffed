"""Options of a CLIP from OpenCLIP's open_clip_config.json.

    {"model_cfg": {"embed_dim": 512, "quick_gelu": true, "vision_cfg": {...}, "text_cfg": {...}},
     "preprocess_cfg": {...}}

Without "quick_gelu" the activation is the exact GELU. The sizes are those of the arrays; where the
configuration says others it belongs to another model. Every key that changes features is used here
or refused by its name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpjax.core.errors import UserError
from vpjax.weights.clip_shapes import EPS

FILE = "open_clip_config.json"
HEAD_WIDTH = 64  # OpenCLIP's default
# Keys that do not change the features of a trained model, or that arrays show as well.
HARMLESS = {
    "vision_cfg": ("patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads")
    + ("pos_embed_type", "timm_model_pretrained", "timm_drop", "timm_drop_path"),
    "text_cfg": ("output_tokens", "pad_id", "eos_id", "final_ln_after_pool", "hf_model_pretrained")
    + ("hf_proj_type", "hf_pooler_type"),
}
# Other keys, with the value that changes nothing.
COMMON = {
    "layers": None,
    "width": None,
    "mlp_ratio": None,
    "ls_init_value": None,
    "act_kwargs": None,
    "norm_kwargs": None,
}
USED = {
    "vision_cfg": (*COMMON, "head_width", "patch_size", "image_size", "no_ln_pre", "pool_type")
    + ("final_ln_after_pool", "timm_model_name", "timm_pool", "timm_proj", "timm_proj_bias"),
    "text_cfg": (*COMMON, "heads", "context_length", "vocab_size", "pool_type", "proj_bias"),
}
TOKENIZER = ("hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode")
OFF = (None, False, "", "default", {})  # values of a key that say "not this"


def model_cfg(config: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Return the part of a configuration that describes the model.

    Raises: UserError if there is none.
    """
    model = config.get("model_cfg", config)
    if not isinstance(model, Mapping) or not isinstance(model.get("vision_cfg"), Mapping):
        raise UserError(
            f"{path} describes no model: expected OpenCLIP's model_cfg with a vision_cfg. Fetch "
            "the file again from where the weights are."
        )
    return model


def vision(model: Mapping[str, Any], sizes: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the options of the vision tower, a ViT of OpenCLIP's own.

    Args:
        model: see `model_cfg`.
        sizes: what the arrays show, see `vpjax.weights.clip_shapes.vision_sizes`.
        path: of the configuration, for messages.

    Raises:
        UserError: if a key has a value that does not exist here, or contradicts the arrays.
    """
    cfg = model["vision_cfg"]
    refuse(cfg, "vision_cfg", path)
    _agree(cfg, sizes, {"width": "dim", "layers": "depth"}, path)
    head_width, pool = cfg.get("head_width", HEAD_WIDTH), cfg.get("pool_type", "tok")
    if pool not in ("tok", "avg"):
        raise UserError(
            f"{path}: vision_cfg.pool_type is {pool!r}, so images have no single feature. Choose a "
            "model with 'tok' or 'avg'."
        )
    last = pool == "avg" and bool(cfg.get("final_ln_after_pool"))
    image_size = cfg.get("image_size", 224)
    return (
        dict(sizes)
        | {
            "image_size": image_size if isinstance(image_size, int) else tuple(image_size),
            "heads": sizes["dim"] // head_width,
            "pre_norm": not cfg.get("no_ln_pre"),
            "layer_scale": cfg.get("ls_init_value") is not None,
            "pool": {"tok": "token", "avg": "mean"}[pool],
            "final_norm": not last,
            "fc_norm": last,
        }
        | _common(model, cfg, "vision_cfg", path)
    )


def text(model: Mapping[str, Any], sizes: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the options of the text tower; see `vision` for the arguments.

    Raises: UserError likewise, and for a text tower that has not CLIP's tokenizer.
    """
    cfg = model.get("text_cfg") or {}
    for key in TOKENIZER:
        if cfg.get(key) not in OFF:
            raise UserError(
                f"{path}: text_cfg.{key} is {cfg[key]!r}. Only CLIP's own text tower and tokenizer "
                "are supported; the model's image encoder can be used without them."
            )
    refuse(cfg, "text_cfg", path)
    same = {"width": "dim", "layers": "depth", "context_length": "context", "vocab_size": "vocab"}
    _agree(cfg, sizes, same, path)
    pool, end = cfg.get("pool_type", "argmax"), cfg.get("eos_id", 2)
    if pool != "argmax" and (pool, end) != ("eos", sizes["vocab"] - 1):
        raise UserError(
            f"{path}: text_cfg.pool_type is {pool!r} (eos_id {end}); features of texts are read at "
            "the largest id only. The model's image encoder can be used."
        )
    return (
        dict(sizes)
        | {
            "heads": cfg.get("heads", 8),
            "layer_scale": cfg.get("ls_init_value") is not None,
            "projection_bias": bool(cfg.get("proj_bias")),
        }
        | _common(model, cfg, "text_cfg", path)
    )


def _common(
    model: Mapping[str, Any], cfg: Mapping[str, Any], part: str, path: Path
) -> dict[str, Any]:
    """Return epsilon and activation of a tower."""
    act, norm = cfg.get("act_kwargs") or {}, cfg.get("norm_kwargs") or {}
    approximate = act.get("approximate", "none")
    quick = bool(model.get("quick_gelu"))
    if set(act) - {"approximate"} or approximate not in ("none", "tanh") or (quick and act):
        raise UserError(f"{path}: {part}.act_kwargs {act} are not supported")
    if set(norm) - {"eps"}:
        raise UserError(f"{path}: {part}.norm_kwargs {norm} are not supported; only eps is")
    activation = "quick_gelu" if quick else {"none": "gelu", "tanh": "gelu_tanh"}[approximate]
    return {"eps": norm.get("eps", EPS), "activation": activation}


def refuse(cfg: Mapping[str, Any], part: str, path: Path) -> None:
    """Raise a UserError that names the keys of a part which change the result and are not known."""
    known = {*USED[part], *HARMLESS[part]}
    wrong = [k for k, v in cfg.items() if k not in known and v not in OFF]
    if wrong:
        said = ", ".join(f"{part}.{k} = {cfg[k]!r}" for k in wrong)
        raise UserError(
            f"{path}: {said}: not supported, and without it the features would be others. Choose "
            "another model."
        )


def _agree(
    cfg: Mapping[str, Any], sizes: Mapping[str, Any], same: Mapping[str, str], path: Path
) -> None:
    for theirs, ours in same.items():
        if theirs in cfg and cfg[theirs] != sizes[ours]:
            raise UserError(
                f"{path} belongs to another model: it says {theirs} {cfg[theirs]}, the weights "
                f"beside it have {sizes[ours]}"
            )
