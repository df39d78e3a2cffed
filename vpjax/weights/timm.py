"""Names of files written with timm's Vision Transformers, and with the code that theirs come from.

    blocks.7.attn.qkv.weight   (3 D, D), rows in the order query, key, value, heads within
    layers/7/attn/query/kernel (D, N, d), and key and value

Linear weights are stored (out, in), the patch convolution (D, 3, p, p). Read are names of timm's
VisionTransformer, VisionTransformerDistilled, Beit and Eva, and those of DINO, DINOv2, DeiT, MAE,
MoCo v3 and BEiT by their authors where they differ. Pre-training files hold more than the encoder,
which goes to "unused/": decoders, projectors, momentum encoders. What names and shapes do not show
comes from the name of timm's architecture, `vpjax.weights.timm_models`.
"""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from vpjax.core.errors import UserError
from vpjax.core.size import Size, pair
from vpjax.data import transforms
from vpjax.weights import timm_models
from vpjax.weights.description import Description, WeightsFile
from vpjax.weights.relative import OWN, offsets

ANCHOR = r"blocks\.0\.attn\.(?:qkv|q_proj)\.weight"
# Prefixes of the training scripts before the encoder's names.
PREFIX = re.compile(r"^module\.(base_encoder\.)?")
UNUSED = re.compile(
    r"decoder_.*|mask_token|lm_head\..*|(momentum_encoder|predictor)\..*"
    r"|head\.(\d+|mlp|last_layer)\..*|.*relative_position_index|.*\.k_bias"
)
SHARED_BIAS = "rel_pos_bias.relative_position_bias_table"  # BEiT's pre-training: of all layers
TWO_HEADS = (
    "logits of a distilled DeiT are the mean of two heads, of class and distillation token, and "
    "vpjax models have one. Use head='new'"
)
NO_PRE_LOGITS = "it reads pre_logits, a layer that is left out. Set backbone.pre_logits=True"

TOP = {
    "patch_embed.proj": "patch_embed",
    "norm_pre": "pre_norm",
    "norm": "norm",
    "fc_norm": "fc_norm",
    "pre_logits.fc": "pre_logits",
    "head": "head",
    "attn_pool.q": "attn_pool/attn/query",
    "attn_pool.proj": "attn_pool/attn/out",
    "attn_pool.norm": "attn_pool/norm",
    "attn_pool.mlp.fc1": "attn_pool/mlp/fc1",
    "attn_pool.mlp.fc2": "attn_pool/mlp/fc2",
}
TOKENS = {
    "cls_token": "cls_token",
    "dist_token": "dist_token",
    "reg_token": "registers",
    "register_tokens": "registers",
    "pos_embed": "pos_embed",
    "attn_pool.latent": "attn_pool/probe",
}
BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.q_proj": "attn/query",
    "attn.k_proj": "attn/key",
    "attn.v_proj": "attn/value",
    "attn.q_norm": "attn/query_norm",
    "attn.k_norm": "attn/key_norm",
    "attn.norm": "attn/out_norm",
    "attn.proj": "attn/out",
    "mlp.fc1": "mlp/fc1",
    "mlp.fc2": "mlp/fc2",
    "mlp.fc1_x": "mlp/fc1",
    "mlp.fc1_g": "mlp/gate",
    "mlp.norm": "mlp/norm",
    "mlp.w3": "mlp/fc2",
}
VECTORS = {
    "attn.q_bias": "attn/query/bias",
    "attn.v_bias": "attn/value/bias",
    "attn.relative_position_bias_table": "attn/relative_bias",
    "ls1.gamma": "scale1",
    "ls2.gamma": "scale2",
    "gamma_1": "scale1",
    "gamma_2": "scale2",
}
QKV = ("attn/query", "attn/key", "attn/value")
KV = ("attn_pool/attn/key", "attn_pool/attn/value")
GATED = ("mlp/gate", "mlp/fc1")


def recognises(names: Collection[str]) -> bool:
    """Return whether names are those of a timm ViT."""
    return any(re.fullmatch(ANCHOR, PREFIX.sub("", n)) for n in names)


def describe(file: WeightsFile) -> Description:
    """Return the ViT that a file describes.

    With timm's configuration everything is known; else what shapes do not show is open.

    Raises:
        UserError: for an architecture of timm that vpjax does not have, or does not know.
    """
    shapes = {PREFIX.sub("", n): s for n, s in file.shapes.items()}
    named = timm_models.options_of(file.config) if file.library == "timm" else {}
    try:
        shown = options_of(shapes, named.get("image_size"))
        options = shown | named
    except KeyError as e:
        raise UserError(
            f"weights {file.where} have names of timm's ViTs, but no {e.args[0]}: they are of an "
            "architecture that vpjax does not have."
        ) from e
    if file.library == "timm":
        kind = f"a timm {file.config['architecture']}"
        if len(file.config) > 2:  # more than OpenCLIP says of its image encoder: name and pooling
            timm_models.check(file, shown, named)
        preset = transforms.preset_from("timm", file.config, file.processor)
        unsaid = () if "pool" in options else ("pool",)
        return Description(kind, "vit.ViT", options, unsaid, preset)
    unseen = ["heads", "eps"]
    unseen += ["activation"] if options["mlp"] == "mlp" else []
    unseen += ["pool"] if "pool" not in options else []
    of_eva = "blocks.0.attn.q_proj.weight" in shapes or "blocks.0.attn.q_bias" in shapes
    if (of_eva or options.get("positions") == "none") and not options["relative_bias"]:
        unseen.append("rope")
    name = "vit.MAE" if "decoder_pos_embed" in shapes else "vit.ViT"
    return Description("a ViT with timm's names", name, options, open=tuple(unseen))


def options_of(shapes: Mapping[str, tuple[int, ...]], size: Size | None = None) -> dict[str, Any]:
    """Return the options of `vit.ViT` that names and shapes of a file show.

    Args:
        shapes: by the names in the file.
        size: of images, where a configuration says it; None: square, if positions are.
    """
    block = {n.removeprefix("blocks.0."): s for n, s in shapes.items() if n.startswith("blocks.0.")}
    dim, channels, *patch = shapes["patch_embed.proj.weight"]
    registers = shapes.get("reg_token") or shapes.get("register_tokens")
    gated = "mlp.fc1_g.weight" in block or "mlp.w12.weight" in block
    second = block.get("mlp.fc2.weight") or block["mlp.w3.weight"]
    gated = gated or block["mlp.fc1.weight"][0] == 2 * second[1]
    out = {
        "patch_size": patch[0] if patch[0] == patch[1] else tuple(patch),
        "dim": dim,
        "mlp_dim": second[1],
        "depth": len({n.split(".")[1] for n in shapes if n.startswith("blocks.")}),
        "class_token": "cls_token" in shapes,
        "dist_token": "dist_token" in shapes,
        "num_registers": registers[-2] if registers else 0,
        "qkv_bias": _bias_of(block),
        "qk_norm": "attn.q_norm.weight" in block,
        "out_norm": "attn.norm.weight" in block,
        "layer_scale": "ls1.gamma" in block or "gamma_1" in block,
        "relative_bias": SHARED_BIAS in shapes or "attn.relative_position_bias_table" in block,
        "mlp": ("swiglu_norm" if "mlp.norm.weight" in block else "swiglu") if gated else "mlp",
        "pre_norm": "norm_pre.weight" in shapes,
        "patch_bias": "patch_embed.proj.bias" in shapes,
    }
    if channels != 3:
        out["channels"] = channels
    if "norm.weight" not in shapes:
        out["final_norm"] = False
    if "fc_norm.weight" in shapes:
        out["fc_norm"] = True
    if "attn_pool.latent" in shapes:
        out["pool"] = "map"
    return out | _positions(shapes, out, size)


def _bias_of(block: Mapping[str, tuple[int, ...]]) -> bool | str:
    if "attn.q_bias" in block or "attn.q_proj.bias" in block:
        return True if "attn.k_proj.bias" in block else "qv"
    return "attn.qkv.bias" in block


def _positions(
    shapes: Mapping[str, Any], options: Mapping[str, Any], size: Size | None
) -> dict[str, Any]:
    """Return positions, how many prefix tokens have one, and the size of images."""
    patch = pair(options["patch_size"])
    if "pos_embed" not in shapes:
        tables = [s[0] for n, s in shapes.items() if n.endswith("relative_position_bias_table")]
        edge = (math.isqrt(max(tables[0] - OWN, 0)) + 1) // 2 if tables else 0
        square = edge and offsets((edge, edge)) + OWN == tables[0]
        return {"positions": "none"} | (_square(edge, patch) if square else {})
    count = shapes["pos_embed"][-2]
    tokens = options["class_token"] + options["dist_token"]
    known = size and math.prod(i // p for i, p in zip(pair(size), patch, strict=True))
    for prefix in (tokens, 0, tokens + options["num_registers"]):
        cells = count - prefix
        edge = math.isqrt(max(cells, 0))
        if cells == known or (not known and edge and edge * edge == cells):
            out = {} if prefix == tokens else {"prefix_positions": prefix}
            return out | ({} if known else _square(edge, patch))
    return _positions(shapes, options, None) if known else {}


def _square(edge: int, patch: tuple[int, int]) -> dict[str, Any]:
    size = tuple(edge * p for p in patch)
    return {"image_size": size[0] if size[0] == size[1] else size}


def no_head(names: Collection[str], expected: Collection[str]) -> str:
    """Return why a file's classifier does not suit the model's features; "" if it does.

    Args:
        names: of the file.
        expected: the model's names.
    """
    if "head_dist.weight" in names:
        return TWO_HEADS
    left_out = "pre_logits.fc.weight" in names and "pre_logits/kernel" not in expected
    return NO_PRE_LOGITS if left_out else ""


def translate(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return a file's arrays by our names, in our shapes; an unknown name stays as it is.

    A backbone that pools before its last norm (`fc_norm`) starts that norm at scale 1, bias 0 where
    the file has none; the file's own last norm, which saw other tokens, is then unused.
    """
    layout = _Layout(expected)
    short = {PREFIX.sub("", n) for n in arrays}
    problem = no_head(short, expected.keys())
    out = {}
    for name, array in arrays.items():
        theirs = PREFIX.sub("", name)
        if UNUSED.fullmatch(theirs) or (problem and re.match(r"head(_dist)?\.", theirs)):
            out[f"unused/{name}"] = array
        elif theirs == SHARED_BIAS:
            tables = [n for n in expected if n.endswith("attn/relative_bias")]
            out |= dict.fromkeys(tables or [theirs], array)
        else:
            out |= layout.translate(theirs, array)
    if "fc_norm/scale" in expected and "norm/scale" not in expected:
        out = {(f"unused/{n}" if n.startswith("norm/") else n): v for n, v in out.items()}
        for kind, value in (("scale", np.ones), ("bias", np.zeros)):
            shape = expected[f"fc_norm/{kind}"].shape
            out.setdefault(f"fc_norm/{kind}", value(shape, np.float32))
    return out


class _Layout:
    """How arrays lie in our model, and in a file with these names."""

    def __init__(self, expected: Mapping[str, Any]):
        self.heads = next(
            (v.shape[1] for n, v in expected.items() if n.endswith("query/kernel")), 1
        )
        self.fused = {"attn.qkv": QKV, "mlp.w12": GATED}
        if any(n.endswith("mlp/gate/kernel") for n in expected):
            self.fused["mlp.fc1"] = GATED  # packed, as `mlp.fc1_g` and `mlp.fc1_x` are not

    def translate(self, name: str, array: np.ndarray) -> dict[str, np.ndarray]:
        """Return an array, or the parts of a fused one, by our names."""
        if name in TOKENS:
            return {TOKENS[name]: array[0] if array.ndim == 3 else array}
        layer, part, names = "", name, TOP
        if m := re.fullmatch(r"blocks\.(\d+)\.(.*)", name):
            layer, part, names = f"layers/{m[1]}/", m[2], BLOCK
            if part in VECTORS:
                return {layer + VECTORS[part]: self.split(array, VECTORS[part])}
        part, _, kind = part.rpartition(".")
        ours = self.fused.get(part) if layer else {"attn_pool.kv": KV}.get(part)
        ours = ours or ((names[part],) if part in names else ())
        if kind not in ("weight", "bias") or not ours or len(array) % len(ours):
            return {name: array}
        arrays = zip(ours, np.split(array, len(ours)), strict=True)
        return dict(self.array(layer + place, part, kind) for place, part in arrays)

    def array(self, name: str, array: np.ndarray, kind: str) -> tuple[str, np.ndarray]:
        """Return an array of a layer by our name, in our order of axes."""
        if kind == "bias":
            return f"{name}/bias", self.split(array, f"{name}/bias")
        if array.ndim == 1:
            return f"{name}/scale", array
        if array.ndim == 4:
            return f"{name}/kernel", array.transpose(2, 3, 1, 0)  # p p 3 D
        kernel = array.T  # in out
        if name.endswith("attn/out") and len(kernel) % self.heads == 0:
            return f"{name}/kernel", kernel.reshape(self.heads, -1, kernel.shape[1])  # N d D
        return f"{name}/kernel", self.split(kernel, f"{name}/kernel")

    def split(self, array: np.ndarray, name: str) -> np.ndarray:
        """Split the last axis of a query, key or value into heads, if they divide it."""
        of_heads = re.search("attn/(query|key|value)/(kernel|bias)$", name)
        if not of_heads or array.shape[-1] % self.heads:
            return array
        return array.reshape(*array.shape[:-1], self.heads, -1)
