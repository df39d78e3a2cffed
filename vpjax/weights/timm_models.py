"""timm's architectures by name: what arrays and their names do not show.

    "vit_base_patch16_clip_224"  ->  12 heads, eps 1e-5, GELU by erf, pooled by the class token

The table holds architectures, not rules: a name that is not in it is refused, because nothing says
how it differs. It is checked against timm 1.0.31 by `tests/zoo/test_timm.py`.
"""

import re
from collections.abc import Mapping
from typing import Any

from vpjax.core.errors import UserError, unknown
from vpjax.core.size import pair
from vpjax.weights.description import WeightsFile

# By the word for the size in a name; "giant" has 24 where it is DINOv2's.
HEADS = {"tiny": 3, "xsmall": 4, "wee": 4, "little": 5, "small": 6, "medium": 8, "mediumd": 8}
HEADS |= {"betwixt": 10, "base": 12, "so150m2": 13, "so150m": 14, "large": 16, "so400m": 16}
HEADS |= {"huge": 16, "giant": 16, "giantopt": 16, "gigantic": 16, "intern300m": 16, "7b": 32}
OTHER_HEADS = {
    r"vit_base_patch\d+_plus_.*": 14,
    r"vit_base_patch16_gap_224": 16,
    r"vit_giant_.*_(dinov2|tipsv2|radio_v3|lingbot)": 24,
    r"vit_huge_plus_.*": 20,
    r"test_vit2?": 2,
}
# Options, and the architectures that have them.
ARCHITECTURES: tuple[tuple[dict[str, Any], str], ...] = (
    (
        {},
        """
        deit3_base_patch16_224 deit3_base_patch16_384 deit3_huge_patch14_224
        deit3_large_patch16_224 deit3_large_patch16_384 deit3_medium_patch16_224
        deit3_small_patch16_224 deit3_small_patch16_384 deit_base_patch16_224
        deit_base_patch16_384 deit_small_patch16_224 deit_tiny_patch16_224
        eva_giant_patch14_clip_224 flexivit_base flexivit_large flexivit_small test_vit
        vit_base_patch14_dinov2 vit_base_patch14_reg1_tipsv2 vit_base_patch14_reg4_dinov2
        vit_base_patch16_224 vit_base_patch16_224_miil vit_base_patch16_384
        vit_base_patch16_plus_240 vit_base_patch16_radio_v3 vit_base_patch32_224
        vit_base_patch32_384 vit_base_patch32_plus_256 vit_base_patch8_224
        vit_giant_patch14_224 vit_giant_patch14_dinov2 vit_giant_patch14_reg1_tipsv2
        vit_giant_patch14_reg4_dinov2 vit_giant_patch16_radio_v3 vit_gigantic_patch14_224
        vit_huge_patch14_224 vit_huge_patch16_radio_v3 vit_huge_patch16_radio_v4
        vit_intern300m_patch14_448 vit_large_patch14_224 vit_large_patch14_dinov2
        vit_large_patch14_reg1_tipsv2 vit_large_patch14_reg4_dinov2 vit_large_patch16_224
        vit_large_patch16_384 vit_large_patch16_radio_v3 vit_large_patch32_224
        vit_large_patch32_384 vit_small_patch14_dinov2 vit_small_patch14_reg4_dinov2
        vit_small_patch16_224 vit_small_patch16_36x1_224 vit_small_patch16_384
        vit_small_patch32_224 vit_small_patch32_384 vit_small_patch8_224
        vit_so400m_patch14_reg1_tipsv2 vit_so400m_patch16_radio_v4 vit_tiny_patch16_224
        vit_tiny_patch16_384
        """,
    ),
    (
        {"eps": 1e-5},
        """
        vit_base_patch16_clip_224 vit_base_patch16_clip_384 vit_base_patch16_plus_clip_240
        vit_base_patch32_clip_224 vit_base_patch32_clip_256 vit_base_patch32_clip_384
        vit_base_patch32_clip_448 vit_betwixt_patch32_clip_224 vit_giant_patch14_clip_224
        vit_gigantic_patch14_clip_224 vit_gigantic_patch14_clip_378
        vit_huge_patch14_clip_224 vit_huge_patch14_clip_336 vit_huge_patch14_clip_378
        vit_large_patch14_clip_224 vit_large_patch14_clip_336 vit_medium_patch16_clip_224
        vit_medium_patch32_clip_224 vit_xsmall_patch16_clip_224
        """,
    ),
    (
        {"pool": "map"},
        """
        vit_base_patch16_siglip_224 vit_base_patch16_siglip_256 vit_base_patch16_siglip_384
        vit_base_patch16_siglip_512 vit_large_patch16_siglip_256
        vit_large_patch16_siglip_384 vit_so150m_patch16_reg4_map_256
        vit_so400m_patch14_siglip_224 vit_so400m_patch14_siglip_378
        vit_so400m_patch14_siglip_384
        """,
    ),
    (
        {"pool": "mean"},
        """
        beit_base_patch16_224 beit_base_patch16_384 beit_large_patch16_224
        beit_large_patch16_384 beit_large_patch16_512 beitv2_base_patch16_224
        beitv2_large_patch16_224 eva_giant_patch14_224 eva_giant_patch14_336
        eva_giant_patch14_560 eva_large_patch14_196 eva_large_patch14_336 test_vit2
        vit_base_patch16_gap_224 vit_base_patch16_reg4_gap_256
        vit_base_patch16_siglip_gap_224 vit_base_patch16_siglip_gap_256
        vit_base_patch16_siglip_gap_384 vit_base_patch16_siglip_gap_512
        vit_betwixt_patch16_gap_256 vit_betwixt_patch16_reg1_gap_256
        vit_betwixt_patch16_reg4_gap_256 vit_betwixt_patch16_reg4_gap_384
        vit_giant_patch16_gap_224 vit_huge_patch14_gap_224 vit_huge_patch16_gap_448
        vit_large_patch16_siglip_gap_256 vit_large_patch16_siglip_gap_384
        vit_little_patch16_reg1_gap_256 vit_little_patch16_reg4_gap_256
        vit_medium_patch16_gap_240 vit_medium_patch16_gap_256 vit_medium_patch16_gap_384
        vit_medium_patch16_reg1_gap_256 vit_medium_patch16_reg4_gap_256
        vit_mediumd_patch16_reg4_gap_256 vit_mediumd_patch16_reg4_gap_384
        vit_so150m2_patch16_reg1_gap_256 vit_so150m2_patch16_reg1_gap_384
        vit_so150m2_patch16_reg1_gap_448 vit_so150m_patch16_reg4_gap_256
        vit_so150m_patch16_reg4_gap_384 vit_so400m_patch14_siglip_gap_224
        vit_so400m_patch14_siglip_gap_378 vit_so400m_patch14_siglip_gap_384
        vit_so400m_patch14_siglip_gap_448 vit_so400m_patch14_siglip_gap_896
        vit_wee_patch16_reg1_gap_256
        """,
    ),
    (
        {"pool": "prefix_mean"},
        """
        deit_base_distilled_patch16_224 deit_base_distilled_patch16_384
        deit_small_distilled_patch16_224 deit_tiny_distilled_patch16_224
        """,
    ),
    (
        {"activation": "gelu_tanh", "pool": "map"},
        """
        vit_base_patch32_siglip_256 vit_giantopt_patch16_siglip_256
        vit_giantopt_patch16_siglip_384 vit_large_patch16_siglip_512
        vit_so400m_patch16_siglip_256 vit_so400m_patch16_siglip_384
        vit_so400m_patch16_siglip_512
        """,
    ),
    (
        {"activation": "gelu_tanh", "pool": "mean"},
        """
        vit_base_patch32_siglip_gap_256 vit_giantopt_patch16_siglip_gap_256
        vit_giantopt_patch16_siglip_gap_384 vit_large_patch16_siglip_gap_512
        vit_so400m_patch16_siglip_gap_256 vit_so400m_patch16_siglip_gap_384
        vit_so400m_patch16_siglip_gap_512
        """,
    ),
    (
        {"activation": "quick_gelu", "eps": 1e-5},
        """
        vit_base_patch16_clip_quickgelu_224 vit_base_patch32_clip_quickgelu_224
        vit_gigantic_patch14_clip_quickgelu_224 vit_huge_patch14_clip_quickgelu_224
        vit_huge_patch14_clip_quickgelu_378 vit_large_patch14_clip_quickgelu_224
        vit_large_patch14_clip_quickgelu_336
        """,
    ),
    (
        {"eps": 1e-5, "rope": "dinov3"},
        """
        vit_base_patch16_lingbot vit_giant_patch16_lingbot vit_large_patch16_lingbot
        vit_small_patch16_lingbot
        """,
    ),
    (
        {"rope": "eva", "rope_grid": (16, 16)},
        """
        eva02_base_patch16_clip_224 eva02_large_patch14_clip_224
        eva02_large_patch14_clip_336
        """,
    ),
    (
        {"eps": 1e-5, "pool": "mean", "rope": "dinov3"},
        """
        vit_7b_patch16_dinov3 vit_base_patch16_dinov3 vit_base_patch16_dinov3_qkvb
        vit_huge_plus_patch16_dinov3 vit_huge_plus_patch16_dinov3_qkvb
        vit_large_patch16_dinov3 vit_large_patch16_dinov3_qkvb vit_small_patch16_dinov3
        vit_small_patch16_dinov3_qkvb vit_small_plus_patch16_dinov3
        vit_small_plus_patch16_dinov3_qkvb vit_tiny_patch16_dinov3_qkvb
        """,
    ),
    (
        {"pool": "mean", "rope": "eva", "rope_grid": (16, 16)},
        """
        eva02_base_patch14_224 eva02_base_patch14_448 eva02_large_patch14_224
        eva02_large_patch14_448 eva02_small_patch14_224 eva02_small_patch14_336
        eva02_tiny_patch14_224 eva02_tiny_patch14_336 vit_base_patch16_rope_reg1_gap_256
        vit_betwixt_patch16_rope_reg4_gap_256 vit_medium_patch16_rope_reg1_gap_256
        vit_mediumd_patch16_rope_reg1_gap_256
        """,
    ),
)
BY_NAME = {name: options for options, names in ARCHITECTURES for name in names.split()}

POOLS = {"token": "token", "avg": "mean", "map": "map"}
ACTIVATIONS = ("gelu", "quick_gelu", "gelu_tanh")
# Arguments of timm's classes that a file of weights shows, or that change no result.
SHOWN = {"patch_size", "in_chans", "embed_dim", "depth", "mlp_ratio", "qkv_bias", "qk_norm"}
SHOWN |= {"init_values", "class_token", "reg_tokens", "num_reg_tokens", "no_embed_class"}
SHOWN |= {"pre_norm", "final_norm", "fc_norm", "use_fc_norm", "use_abs_pos_emb", "pos_embed"}
SHOWN |= {"use_rel_pos_bias", "use_shared_rel_pos_bias", "swiglu_mlp", "scale_mlp", "qkv_fused"}
SHOWN |= {"scale_attn_inner", "num_classes", "weight_init", "fix_init", "dynamic_img_size"}


def options_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `vit.ViT` that a configuration of timm says.

    Args:
        config: "architecture", "model_args" (what was built otherwise than usual), "global_pool"
            and "pretrained_cfg", which has the size of images.

    Raises:
        UserError: for an architecture or an argument that vpjax does not know.
    """
    name = config.get("architecture") or ""
    if name not in BY_NAME:
        raise unknown("timm architecture (of those with a ViT's names)", name, BY_NAME)
    out = {"heads": heads_of(name), "pool": "token", "eps": 1e-6, "activation": "gelu", "rope": ""}
    out |= BY_NAME[name]
    cfg, args = config.get("pretrained_cfg") or {}, dict(config.get("model_args") or {})
    pool = args.pop("global_pool", config.get("global_pool"))
    if pool is not None and out["pool"] != "prefix_mean":
        if pool not in ("", *POOLS):
            raise unknown("global_pool", pool, POOLS)
        out.pop("pool")
        out |= {"pool": POOLS[pool]} if pool else {}  # "": not said
    size = args.pop("img_size", None) or tuple(cfg.get("input_size", ()))[1:]
    if size:
        out["image_size"] = size if isinstance(size, int) else tuple(size)
    out |= _arguments(name, args)
    return out


# Widths of a head in timm's ViTs.
HEAD_WIDTHS = (64, 72, 80, 88, 104, 128)
# Arguments of timm's classes, and the option of ours that shapes show.
COMPARED = {"embed_dim": "dim", "depth": "depth", "patch_size": "patch_size", "qk_norm": "qk_norm"}
COMPARED |= {"in_chans": "channels", "reg_tokens": "num_registers", "pre_norm": "pre_norm"}
COMPARED |= {"num_reg_tokens": "num_registers", "init_values": "layer_scale"}
COMPARED |= {"class_token": "class_token"}
FLAGS = ("init_values", "qk_norm", "pre_norm")


def check(file: WeightsFile, shown: Mapping[str, Any], named: Mapping[str, Any]) -> None:
    """Check that a configuration of timm and the arrays beside it are of one model.

    Args:
        file: of weights, with its configuration.
        shown: options of `vit.ViT` that the arrays show.
        named: those that the configuration says.

    Raises:
        UserError: with what differs.
    """
    name, args = file.config["architecture"], dict(file.config.get("model_args") or {})
    shown, differ = {"channels": 3} | dict(shown), []
    for key, option in COMPARED.items():
        if key not in args or (args[key] is None and key not in FLAGS):
            continue
        said, found = args[key], shown[option]
        if key == "patch_size":
            said, found = pair(said), pair(found)
        if key in FLAGS:
            said = bool(said)
        if said != found:
            differ.append(f"{key}: config.json {args[key]}, arrays {shown[option]}")
    heads = named["heads"]
    if shown["dim"] % heads or (
        not {"embed_dim", "num_heads"} & args.keys() and shown["dim"] // heads not in HEAD_WIDTHS
    ):
        differ.append(f"width: {name} has {heads} heads, and the arrays are {shown['dim']} wide")
    size = named.get("image_size")
    if size and "image_size" in shown and pair(shown["image_size"]) != pair(size):
        differ.append(f"image size: config.json {size}, positions {shown['image_size']}")
    if name.startswith("beit") != bool(shown["relative_bias"]):
        has = "tables" if shown["relative_bias"] else "no tables"
        differ.append(f"positions: {name}, and the arrays have {has} of relative positions")
    elif named["rope"] == "dinov3" and shown.get("positions") != "none":
        differ.append(f"positions: {name} has rotary ones, and the arrays have learnt ones")
    if differ:
        raise UserError(
            f"weights {file.path} and the config.json beside them differ:\n    "
            + "\n    ".join(differ)
            + "\n  One of both belongs to other weights."
        )


def heads_of(name: str) -> int:
    """Return the number of attention heads of an architecture of the table."""
    for pattern, heads in OTHER_HEADS.items():
        if re.fullmatch(pattern, name):
            return heads
    return HEADS[re.split("[_]", name)[1]]


def _arguments(name: str, args: dict[str, Any]) -> dict[str, Any]:
    """Return the options that further arguments of timm's class stand for."""
    out = {}
    for key, value in args.items():
        if key == "num_heads":
            out["heads"] = value
        elif key == "act_layer" and value in ACTIVATIONS:
            out["activation"] = value
        elif key == "ref_feat_shape":
            out["rope_grid"] = (value, value) if isinstance(value, int) else value and tuple(value)
        elif key == "rope_temperature":
            out["rope_theta"] = value
        elif key not in SHOWN and not key.endswith("drop_rate") and not key.endswith("path_rate"):
            raise UserError(
                f"a timm {name} built with {key}={value!r}, which vpjax does not know. Load it "
                "with timm, or give weights without that argument."
            )
    return out
