"""Names of Vision Transformers written by Hugging Face transformers.

    vit.encoder.layer.7.attention.attention.query.weight   (out, in)   ViT, DeiT, MAE, BEiT, DINOv2
    layer.7.attention.q_proj.weight                                    DINOv3, and all in memory
    vision_model.encoder.layers.7.self_attn.q_proj.weight              SigLIP
    layers/7/attn/query/kernel                             (D, N, d)   ours

A model with a head has the name of its encoder in front ("vit."), a bare one has not. Flax files
(`flax_model.msgpack`) have the same places with "/" between them, and matrices (in, out). What the
encoder's features do not need goes to "unused/": decoders, mask tokens, text towers. The pooler of
ViT and DeiT, a dense layer with tanh, is `pre_logits`. What names and shapes do not show is in
config.json: `vpjax.weights.transformers_config`.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from vpjax.weights import layout, transformers_config
from vpjax.weights.description import Description, WeightsFile

ENCODERS = ("vit", "deit", "beit", "data2vec_vision", "dinov2", "dinov2_with_registers", "ijepa")
ENCODER = rf"(?:(?:{'|'.join(ENCODERS)}|vision_model)[./])"
# A name that every file has once: the first query, or the patches of SigLIP.
LAYERS = r"(?:encoder[./]layer|model[./]layer|layers?)"
QUERY = LAYERS + r"[./]0[./]attention[./](?:attention[./]query|q_proj)"
PATCHES = r"embeddings[./]patch_embedding"
ANCHOR = rf"{ENCODER}?(?:{QUERY}|{PATCHES})[./](?:weight|kernel)"
CLIP = "embeddings.class_embedding"  # has the patches of SigLIP, but is `vpjax.weights.clip`'s

LAYER = re.compile(r"(?:encoder\.layers?|model\.layer|layers?)\.(\d+)\.(.*)")
TOP = {
    "embeddings.patch_embeddings.projection": "patch_embed",
    "embeddings.patch_embeddings": "patch_embed",
    "embeddings.patch_embedding": "patch_embed",
    "layernorm": "norm",
    "norm": "norm",
    "post_layernorm": "norm",
    "pooler.layernorm": "fc_norm",
    "pooler.dense": "pre_logits",
    "head.attention.out_proj": "attn_pool/attn/out",
    "head.layernorm": "attn_pool/norm",
    "head.mlp.fc1": "attn_pool/mlp/fc1",
    "head.mlp.fc2": "attn_pool/mlp/fc2",
}
BLOCK = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn/out",
    "attention.o_proj": "attn/out",
    "self_attn.out_proj": "attn/out",
    "intermediate.dense": "mlp/fc1",
    "output.dense": "mlp/fc2",
    "mlp.fc1": "mlp/fc1",
    "mlp.fc2": "mlp/fc2",
    "mlp.up_proj": "mlp/fc1",
    "mlp.gate_proj": "mlp/gate",
    "mlp.down_proj": "mlp/fc2",
    "mlp.weights_out": "mlp/fc2",
}
for _ours in ("query", "key", "value"):
    BLOCK |= {f"{place}.{_ours[0]}_proj": f"attn/{_ours}" for place in ("attention", "self_attn")}
    BLOCK[f"attention.attention.{_ours}"] = f"attn/{_ours}"
# Parameters that are neither a weight nor a bias.
TOKENS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.distillation_token": "dist_token",
    "embeddings.register_tokens": "registers",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.position_embedding.weight": "pos_embed",
    "head.probe": "attn_pool/probe",
}
TABLE = "relative_position_bias.relative_position_bias_table"
VECTORS = {
    "layer_scale1.lambda1": "scale1",
    "layer_scale2.lambda1": "scale2",
    "lambda_1": "scale1",
    "lambda_2": "scale2",
    f"attention.attention.{TABLE}": "attn/relative_bias",
    TABLE: "attn/relative_bias",
}
# One table for all layers.
SHARED = (f"encoder.{TABLE}", "shared_position_bias.relative_position_bias_table")
UNUSED = re.compile(
    r"embeddings\.(mask_token|position_ids)|.*relative_position_index|rope_embeddings\..*"
    r"|(decoder|text_model|lm_head|cls_classifier|distillation_classifier)\..*"
    r"|logit_(scale|bias)"
)


def recognises(names: Collection[str]) -> bool:
    """Return whether names are those of a Vision Transformer of transformers, but no CLIP."""
    if any(name.replace("/", ".").endswith(CLIP) for name in names):
        return False
    return any(re.fullmatch(ANCHOR, name) for name in names)


def describe(file: WeightsFile) -> Description:
    """Return the ViT of a file, as its config.json and its shapes describe it.

    Raises:
        UserError: if both contradict each other, or the configuration has what vpjax has not.
    """
    named = our_names(layout.placeholders(file.shapes))
    return transformers_config.describe(file, {n: a.shape for n, a in named.items()})


def translate(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return a file's arrays by our names, in our shapes; an unknown name stays as it is.

    A backbone that pools before its last norm (`vit.MAE`) starts that norm at scale 1, bias 0 where
    the file has none; the file's own last norm, which saw other tokens, is then unused.
    """
    out = {}
    for name, array in our_names(arrays).items():
        like = expected.get(name)
        if name == "patch_embed/kernel" and array.ndim == 2 and like is not None:
            array = array.reshape(like.shape) if like.size == array.size else array
        out[name] = layout.with_heads(name, array, expected)
    if "fc_norm/scale" in expected and "fc_norm/scale" not in out:
        shape = expected["fc_norm/scale"].shape
        out |= {"fc_norm/scale": np.ones(shape, np.float32)}
        out |= {"fc_norm/bias": np.zeros(shape, np.float32)}
        out = {f"unused/{n}" if n.startswith("norm/") else n: v for n, v in out.items()}
    if "attn_pool/probe" not in expected:
        out = {f"unused/{n}" if n.startswith("attn_pool/") else n: v for n, v in out.items()}
    return out


def no_head(names: Collection[str], expected: Mapping[str, Any]) -> str:
    """Return why a file's classifier does not suit the model's features; "" if it does.

    Args:
        names: of the file.
        expected: the model's names with shapes.
    """
    dotted = [n.replace("/", ".") for n in names]
    if any(n.startswith("distillation_classifier.") for n in dotted):
        return (
            "it has two, one for the class token and one for the distillation token, and vpjax "
            "models have one. Use head='new'"
        )
    siglip = any(re.fullmatch(rf"{ENCODER}?{PATCHES}.weight", n) for n in dotted)
    if siglip and "attn_pool/probe" in expected:
        return (
            "it reads the mean of the patches, not attention pooling. Set backbone.pool='mean', or "
            "use head='new'"
        )
    return ""


def our_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a file's arrays by our names; matrices are (in, out), heads are not split."""
    torch = dict(_from_flax(n, a) for n, a in arrays.items())
    anchor = re.compile(rf"({ENCODER}?)(?:{QUERY}|{PATCHES})\.weight")
    encoder = next((m[1] for n in torch if (m := anchor.fullmatch(n))), "")
    out, shared = {}, None
    for name, array in torch.items():
        inside, short = name.startswith(encoder), name.removeprefix(encoder)
        if short in SHARED:
            shared = array
        elif name.startswith("classifier."):
            out[f"head/{'kernel' if array.ndim > 1 else 'bias'}"] = array.T
        elif UNUSED.fullmatch(short) or array.size == 0:  # no register tokens
            out[f"unused/{name}"] = array
        elif inside or name.startswith("layernorm."):  # BEiT's, of masked image modelling
            out |= _translate(short, array)
        else:
            out[name] = array
    if "cls_token" not in out:  # I-JEPA's pooler reads the first patch
        out = {f"unused/{n}" if n.startswith("pre_logits/") else n: v for n, v in out.items()}
    if shared is None:
        return out
    depth = len({n.split("/")[1] for n in out if n.startswith("layers/")})
    tables = [f"layers/{i}/attn/relative_bias" for i in range(depth)]
    return out | {table: out.get(table, 0) + shared for table in tables}


def _from_flax(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    if "/" not in name:
        return name, array
    name = name.removeprefix("params/").replace("/", ".")
    place, _, kind = name.rpartition(".")
    if kind == "kernel":
        return f"{place}.weight", array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return (f"{place}.weight", array) if kind in ("scale", "embedding") else (name, array)


def _translate(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    if name in TOKENS:
        return {TOKENS[name]: array[0] if array.ndim == 3 else array}
    layer, part = "", name
    if m := LAYER.fullmatch(name):
        layer, part = f"layers/{m[1]}/", m[2]
        if part in VECTORS:
            return {layer + VECTORS[part]: array}
    place, _, kind = part.rpartition(".")
    if place == "head.attention" and kind in ("in_proj_weight", "in_proj_bias"):
        ours = "kernel" if kind == "in_proj_weight" else "bias"
        parts = layout.split(array, ("query", "key", "value"))
        return {f"attn_pool/attn/{n}/{ours}": a.T for n, a in parts.items()}
    if layer and place == "mlp.weights_in":  # of DINOv2's SwiGLU, fused
        parts = layout.split(array, ("gate", "fc1"))
        return {f"{layer}mlp/{n}/{_kind(kind, a)}": layout.kernel(a) for n, a in parts.items()}
    ours = (BLOCK if layer else TOP).get(place)
    if ours is None or kind not in ("weight", "bias"):
        return {name: array}
    return {f"{layer}{ours}/{_kind(kind, array)}": layout.kernel(array)}


def _kind(kind: str, array: np.ndarray) -> str:
    return "bias" if kind == "bias" else "scale" if array.ndim == 1 else "kernel"
