"""A plain ViT in a file of timm or transformers: names and configuration, where no file is a model.

Plain: patches, class token, learned positions, pre-norm blocks with biases, exact GELU, the class
token after the last norm. Google's ViTs and those trained from scratch are of this kind. Arrays are
empty; `vpjax.weights.rewrite` fills them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vpjax.core.errors import UserError
from vpjax.core.size import pair

# Options that must have these values.
PLAIN = {"activation": "gelu", "pool": "token", "mlp": "mlp", "rope": "", "positions": "learned"}
PLAIN |= dict.fromkeys(("class_token", "qkv_bias", "patch_bias", "final_norm"), True)
PLAIN |= dict.fromkeys(("pre_logits", "dist_token", "relative_bias", "layer_scale"), False)
PLAIN |= dict.fromkeys(("qk_norm", "out_norm", "pre_norm", "fc_norm"), False) | {"num_registers": 0}
TIMM_EPS = 1e-6


def like_timm(options: Mapping[str, Any], classes: int) -> dict[str, np.ndarray]:
    """Return empty arrays by timm's names.

    Args:
        options: of `vpjax.backbones.vit.ViT`, complete.
        classes: C.
    """
    dim, hidden = options["dim"], options["mlp_dim"]
    out = _tops(options, "patch_embed.proj.weight", "patch_embed.proj.bias")
    for i in range(options["depth"]):
        block = {"norm1": (dim,), "attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim)}
        block |= {"norm2": (dim,), "mlp.fc1": (hidden, dim), "mlp.fc2": (dim, hidden)}
        out |= _layers(f"blocks.{i}.", block)
    return out | _layers("", {"norm": (dim,), "head": (classes, dim)})


def like_transformers(options: Mapping[str, Any], classes: int) -> dict[str, np.ndarray]:
    """Return empty arrays by the names of transformers' ViTForImageClassification.

    See `like_timm` for the arguments.
    """
    dim, hidden, start = options["dim"], options["mlp_dim"], "vit.embeddings."
    patches = f"{start}patch_embeddings.projection"
    found = _tops(options, f"{patches}.weight", f"{patches}.bias")
    names = {"cls_token": "cls_token", "pos_embed": "position_embeddings"}
    out = {start + names[n] if n in names else n: a for n, a in found.items()}
    for i in range(options["depth"]):
        block = {f"attention.attention.{n}": (dim, dim) for n in ("query", "key", "value")}
        block |= {"layernorm_before": (dim,), "attention.output.dense": (dim, dim)}
        block |= {"layernorm_after": (dim,), "intermediate.dense": (hidden, dim)}
        out |= _layers(f"vit.encoder.layer.{i}.", block | {"output.dense": (dim, hidden)})
    return out | _layers("", {"vit.layernorm": (dim,), "classifier": (classes, dim)})


def config_timm(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json of timm, without classes and preprocessing.

    Raises: UserError for another epsilon than timm's.
    """
    if options["eps"] != TIMM_EPS:
        raise UserError(
            f"a plain ViT of timm has eps={TIMM_EPS:g} in its norms, and this one "
            f"{options['eps']:g}. Use --format transformers."
        )
    size, patch = pair(options["image_size"]), pair(options["patch_size"])
    arguments = {"img_size": list(size), "patch_size": patch[0], "embed_dim": options["dim"]}
    arguments |= {"depth": options["depth"], "num_heads": options["heads"]}
    arguments |= {"mlp_ratio": options["mlp_dim"] / options["dim"], "in_chans": options["channels"]}
    return {
        "architecture": "vit_base_patch16_224",  # the arguments make it this one
        "num_features": options["dim"],
        "global_pool": "token",
        "model_args": arguments,
        "pretrained_cfg": {"classifier": "head", "first_conv": "patch_embed.proj"},
    }


def config_transformers(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json of transformers, without classes."""
    size = pair(options["image_size"])
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": options["dim"],
        "intermediate_size": options["mlp_dim"],
        "num_hidden_layers": options["depth"],
        "num_attention_heads": options["heads"],
        "image_size": size[0] if size[0] == size[1] else list(size),
        "patch_size": pair(options["patch_size"])[0],
        "num_channels": options["channels"],
        "layer_norm_eps": options["eps"],
        "hidden_act": "gelu",
        "qkv_bias": True,
    }


def check_plain(options: Mapping[str, Any], library: str, own: str = "") -> None:
    """Check that a ViT is a plain one.

    Args:
        options: of the class, complete.
        library: whose names were asked for.
        own: the library that its file is of; "": none.

    Raises:
        UserError: if it is not, with the option that says so.
    """
    patch = pair(options["patch_size"])
    wrong = [f"{k}={options[k]!r}" for k, v in PLAIN.items() if options[k] != v]
    wrong += [f"patch_size={patch}"] * (patch[0] != patch[1])
    if wrong:
        raise UserError(
            f"this is no plain ViT ({', '.join(wrong)}), and there is no {library} file to go by. "
            f"Use {f'--format {own}, ' if own else ''}--format stablehlo, or a "
            "target that ends in .safetensors."
        )


def _tops(options: Mapping[str, Any], weight: str, bias: str) -> dict[str, np.ndarray]:
    dim, (h, w) = options["dim"], pair(options["patch_size"])
    rows, columns = pair(options["image_size"])
    cells = (rows // h) * (columns // w)
    shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, 1 + cells, dim)}
    shapes |= {weight: (dim, options["channels"], h, w), bias: (dim,)}
    return {n: np.zeros(s, np.float32) for n, s in shapes.items()}


def _layers(start: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    out = {}
    for name, shape in shapes.items():
        out[f"{start}{name}.weight"] = np.zeros(shape, np.float32)
        out[f"{start}{name}.bias"] = np.zeros(shape[:1], np.float32)
    return out
