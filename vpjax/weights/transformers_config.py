"""What the config.json of transformers says about a Vision Transformer, beside its shapes.

    sizes        are in the arrays; where config.json has them too, both must agree
    settings     heads, epsilon, activation, pooling: config.json, or the default of its model_type
    no effect    dropout, initial values, labels: left alone
    all others   change what the library computes in a way that vpjax does not have: refused

A config.json whose missing sizes are not the defaults (one made by hand) has no heads either: they
stay open, as does everything where there is no config.json.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from vpjax.core.errors import UserError
from vpjax.core.size import pair
from vpjax.data.transforms import preset_from
from vpjax.weights.description import Description, WeightsFile
from vpjax.weights.transformers_families import ACTIVATIONS, FAMILIES, NO_EFFECT, PLAIN, Family

Shapes = Mapping[str, tuple[int, ...]]


def describe(file: WeightsFile, shapes: Shapes) -> Description:
    """Return the backbone of a file.

    Args:
        file: what was found; its config counts if it is transformers' own.
        shapes: of its arrays by our names, matrices (in, out).

    Raises:
        UserError: if configuration and arrays contradict each other, or one of them has what vpjax
            has not.
    """
    config = dict(file.config) if file.library == "transformers" else {}
    family = family_of(file, config, shapes)
    kind = f"a transformers {(config.get('architectures') or [family.model])[0]}"
    said = config | dict(config.get("vision_config") or {})  # of two towers, the image's
    said.pop("vision_config", None)
    try:
        sizes = sizes_of(shapes, said.get("num_channels", 3))
        found = architecture(shapes, sizes, family)
    except KeyError as e:
        raise UserError(f"weights {file.path} are {kind}, but have no {e.args[0]}") from e
    check_keys(said, family, shapes, file)
    check_sizes(said, sizes, family, file)
    settings = dict(family.defaults) | said
    options = found | {"pool": pooling(settings if config else {}, family, shapes)}
    own_size = image_size(said, family, shapes, sizes, file)
    options["image_size"] = prepared_size(file.processor, sizes) or own_size
    unseen = {"heads": settings["num_attention_heads"], "eps": settings["layer_norm_eps"]}
    silent = [k for k in sizes if k not in said and k in family.defaults]
    if "num_attention_heads" not in said and any(sizes[k] != family.defaults[k] for k in silent):
        unseen["heads"] = None
    if found["mlp"] == "mlp":
        unseen["activation"] = ACTIVATIONS.get(settings["hidden_act"])
    if family.style == "dinov3":
        unseen["rope_theta"] = settings["rope_theta"]
    if not config:
        unseen = dict.fromkeys(unseen)
    if found["relative_bias"]:
        unseen["heads"] = shapes["layers/0/attn/relative_bias"][1]
    if family.model == "ViTMAEModel":  # as vit.ViT does it, unless the user chooses vit.MAE
        options = {k: v for k, v in options.items() if k not in ("pool", "final_norm", "fc_norm")}
    options |= unseen
    return Description(
        kind,
        "vit.ViT",
        {k: v for k, v in options.items() if v is not None},
        open=tuple(k for k, v in options.items() if v is None),
        preset=preset_from("transformers", config, file.processor) if config else None,
        resample=resampling(family, shapes),
        positions_size=own_size,
    )


def resampling(family: Family, shapes: Shapes) -> str:
    """Return how the library resizes positions; BEiT has one rule for tables, one for these."""
    if family.resample == "bilinear" and "pos_embed" in shapes:
        return "bicubic_no_antialias"
    return family.resample


def family_of(file: WeightsFile, config: Mapping[str, Any], shapes: Shapes) -> Family:
    """Return what config.json says the file is, or else what its names say.

    Raises:
        UserError: if it is nothing that vpjax reads, or they contradict each other.
    """
    style = style_of(file.shapes, shapes)
    plain = PLAIN[style]
    if "dist_token" in shapes:
        plain = "deit"
    elif "fc_norm/scale" in shapes or "layers/0/attn/relative_bias" in shapes:
        plain = "beit"
    elif style == "dinov2" and "registers" in shapes:
        plain = "dinov2_with_registers"
    named = config.get("model_type", plain)
    if named not in FAMILIES:
        raise UserError(
            f"weights {file.path}: config.json has model_type {named!r}, which vpjax does not read "
            f"under these names. It reads: {', '.join(FAMILIES)}."
        )
    family = FAMILIES[named]
    if family.style != style:
        raise UserError(
            f"weights {file.path}: config.json has model_type {named!r}, but the arrays are those "
            f"of a {FAMILIES[plain].model}. One of both belongs to other weights."
        )
    return family


def style_of(names: Collection[str], shapes: Shapes) -> str:
    """Return which of the library's ways of naming these are: "vit", "dinov2", "siglip", ..."""
    dotted = [n.replace("/", ".") for n in names]
    if any("embeddings.patch_embedding." in n for n in dotted):
        return "naflex" if len(shapes["patch_embed/kernel"]) == 2 else "siglip"
    if any(n.endswith("embeddings.patch_embeddings.weight") for n in dotted):
        return "dinov3"
    return "dinov2" if any(".layer_scale1." in n for n in dotted) else "vit"


def sizes_of(shapes: Shapes, channels: int) -> dict[str, Any]:
    """Return what the arrays say, by the keys of config.json.

    Raises: KeyError for an array that every file has.
    """
    patch, layer = shapes["patch_embed/kernel"], "layers/0/"
    if len(patch) == 2:
        edge = math.isqrt(patch[0] // channels)
        patch = (edge, edge, channels, patch[1])
    biased = {part: f"{layer}attn/{part}/bias" in shapes for part in ("query", "key", "value")}
    return {
        "hidden_size": patch[3],
        "num_hidden_layers": len({n.split("/")[1] for n in shapes if n.startswith("layers/")}),
        "intermediate_size": shapes[f"{layer}mlp/fc1/kernel"][1],
        "patch_size": patch[0] if patch[0] == patch[1] else patch[:2],
        "num_channels": patch[2],
        "num_register_tokens": shapes.get("registers", (0,))[0],
        "num_patches": shapes.get("pos_embed", (0,))[0],
        "qkv_bias": all(biased.values()),
        **{f"{part}_bias": there for part, there in biased.items()},
        "proj_bias": f"{layer}attn/out/bias" in shapes,
        "mlp_bias": f"{layer}mlp/fc1/bias" in shapes,
        "use_swiglu_ffn": f"{layer}mlp/gate/kernel" in shapes,
        "use_gated_mlp": f"{layer}mlp/gate/kernel" in shapes,
        "use_absolute_position_embeddings": "pos_embed" in shapes,
        "vision_use_head": "attn_pool/probe" in shapes,
    }


def architecture(shapes: Shapes, sizes: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Return the options of vit.ViT that the arrays say."""
    queries = tuple(sizes[f"{part}_bias"] for part in ("query", "key", "value"))
    return {
        "patch_size": sizes["patch_size"],
        "dim": sizes["hidden_size"],
        "mlp_dim": sizes["intermediate_size"],
        "depth": sizes["num_hidden_layers"],
        "channels": sizes["num_channels"],
        "class_token": "cls_token" in shapes,
        "dist_token": "dist_token" in shapes,
        "num_registers": sizes["num_register_tokens"],
        "positions": "learned" if "pos_embed" in shapes else "none",
        "rope": "dinov3" if family.style == "dinov3" else "",
        "relative_bias": "layers/0/attn/relative_bias" in shapes,
        "qkv_bias": "qv" if queries == (True, False, True) else queries[1],
        "layer_scale": "layers/0/scale1" in shapes,
        "mlp": "swiglu" if "layers/0/mlp/gate/kernel" in shapes else "mlp",
        "final_norm": "norm/scale" in shapes,
        "fc_norm": "fc_norm/scale" in shapes,
    }


def check_keys(said: Mapping[str, Any], family: Family, shapes: Shapes, file: WeightsFile) -> None:
    """Refuse settings that change the result and that vpjax does not have.

    A key that is not known here counts if it is on: not False, 0, empty or null.

    Raises: UserError that names them.
    """
    known = family.defaults.keys() | NO_EFFECT
    refused = [k for k, v in said.items() if v and k not in known and not k.startswith("_")]
    usual = {"proj_bias": True, "mlp_bias": True}
    usual |= {"pooler_act": "tanh"} if "pre_logits/kernel" in shapes else {}
    refused += [k for k, v in usual.items() if said.get(k, v) != v]
    act = said.get("hidden_act", family.defaults["hidden_act"])
    if "layers/0/mlp/gate/kernel" not in shapes:
        refused += ["hidden_act"] if act not in ACTIVATIONS else []
    elif family.style == "dinov3":  # of DINOv2 it is SiLU, whatever config.json says
        refused += ["hidden_act"] if act not in ("silu", "swish") else []
    if refused:
        values = ", ".join(f"{k}={said.get(k, family.defaults.get(k))!r}" for k in refused)
        raise UserError(
            f"weights {file.path}: config.json of this {family.model} has {values}, which vpjax "
            "does not have: its features would not be the library's. Choose other weights."
        )


def check_sizes(
    said: Mapping[str, Any], sizes: Mapping[str, Any], family: Family, file: WeightsFile
) -> None:
    """Compare what config.json says with what the arrays say.

    Raises: UserError that lists where they differ, or if biases are of a kind that vpjax lacks.
    """
    said = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
    if isinstance(said.get("patch_size"), tuple) and len(set(said["patch_size"])) == 1:
        said["patch_size"] = said["patch_size"][0]
    found = {k: v for k, v in sizes.items() if k in family.defaults}
    if "mlp_ratio" in said:  # DINOv2: SwiGLU has two thirds of the width, in steps of 8
        width = int(sizes["hidden_size"] * said["mlp_ratio"])
        width = (int(width * 2 / 3) + 7) // 8 * 8 if sizes["use_swiglu_ffn"] else width
        found["mlp_ratio"] = said["mlp_ratio"]
        if width != sizes["intermediate_size"]:
            found["mlp_ratio"] = sizes["intermediate_size"] / sizes["hidden_size"]
    differ = [k for k, v in found.items() if k in said and said[k] != v]
    if differ:
        lines = [f"{k}: config.json {said[k]}, arrays {found[k]}" for k in differ]
        raise UserError(
            f"weights {file.path} and the config.json beside them differ:\n    "
            + "\n    ".join(lines)
            + "\n  One of both belongs to other weights."
        )
    biases = tuple(sizes[f"{part}_bias"] for part in ("query", "key", "value"))
    if biases not in ((True, True, True), (False, False, False), (True, False, True)):
        raise UserError(
            f"weights {file.path}: query_bias={biases[0]}, key_bias={biases[1]}, "
            f"value_bias={biases[2]}. vpjax has all three, none, or all but the key's."
        )


def pooling(settings: Mapping[str, Any], family: Family, shapes: Shapes) -> str | None:
    """Return `pool` of vit.ViT, whose features are the library's; None: nothing says it.

    Args:
        settings: of config.json with the defaults of its class; {} where there is none.
        family: what the file is.
        shapes: of its arrays.
    """
    if family.style in ("siglip", "naflex"):
        return "map" if "attn_pool/probe" in shapes else None
    if "fc_norm/scale" in shapes or "cls_token" not in shapes:
        return "mean"
    if "use_mean_pooling" not in family.defaults:
        return "token"
    if "norm/scale" not in shapes or not settings:
        return None
    # BEiT's last norm sees all tokens where it was trained to predict them.
    return "mean" if settings["use_mean_pooling"] else "token"


def image_size(
    said: Mapping[str, Any],
    family: Family,
    shapes: Shapes,
    sizes: Mapping[str, Any],
    file: WeightsFile,
) -> int | tuple[int, int] | None:
    """Return the edge of images, or their height and width; None: nothing says it.

    Raises: UserError if config.json and the positions in the file contradict each other.
    """
    patch, count = pair(sizes["patch_size"]), None
    relative = "pos_embed" not in shapes
    if not relative:
        prefix = ("cls_token" in shapes) + ("dist_token" in shapes)
        count = shapes["pos_embed"][0] - prefix
    elif "layers/0/attn/relative_bias" in shapes:
        count = shapes["layers/0/attn/relative_bias"][0]
    size = said.get("image_size", family.defaults.get("image_size"))
    size = tuple(size) if isinstance(size, list) else size
    if count is None or (size is not None and rows(size, patch, relative) == count):
        return size if isinstance(size, int) or size[0] != size[1] else size[0]
    if "image_size" in said:
        raise UserError(
            f"weights {file.path}: config.json has image_size {size} and patch_size "
            f"{sizes['patch_size']}, which need {rows(size, patch, relative)} positions; the file "
            f"has {count}. One of both belongs to other weights."
        )
    edge = (math.isqrt(max(count - 3, 0)) + 1) // 2 if relative else math.isqrt(count)
    square = edge * patch[0], edge * patch[1]
    if rows(square, patch, relative) != count:
        return None
    return square if square[0] != square[1] else square[0]


def prepared_size(
    processor: Mapping[str, Any], sizes: Mapping[str, Any]
) -> int | tuple[int, int] | None:
    """Return the size of images that preprocessor_config.json makes; None: it says none.

    DINOv2's positions are those of 518 pixels, and users of the library give it 224.
    """
    size = processor.get("crop_size" if processor.get("do_center_crop") else "size")
    if isinstance(size, Mapping):
        size = (size["height"], size["width"]) if {"height", "width"} <= size.keys() else None
    if size is None:
        return None
    if any(i % p for i, p in zip(pair(size), pair(sizes["patch_size"]), strict=True)):
        return None
    return size if isinstance(size, int) or size[0] != size[1] else size[0]


def rows(size: int | tuple[int, int], patch: tuple[int, int], relative: bool) -> int:
    """Return how many positions images of a size need: cells, or rows of BEiT's table."""
    h, w = (i // p for i, p in zip(pair(size), patch, strict=True))
    return (2 * h - 1) * (2 * w - 1) + 3 if relative else h * w
