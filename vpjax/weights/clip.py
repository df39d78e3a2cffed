"""Names of CLIP files: of the Hugging Face hub, of its Flax files, of OpenAI.

    hub      vision_model.encoder.layers.7.self_attn.q_proj.weight    (out, in)
    flax     vision_model/encoder/layers/7/self_attn/q_proj/kernel    (in, out)
    OpenAI   visual.transformer.resblocks.7.attn.in_proj_weight       query, key, value in one
    ours     layers/7/attn/query/kernel                               (D, N, d)

Everything is brought to the hub's names first. What belongs to the other tower goes to "unused/"; a
name that belongs to neither stays as it is, so that the loader reports it.
OpenAI's `.pt` files are programs: `python main.py convert --unsafe IN OUT` reads them with torch.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

VISION, TEXT = "vision_model.", "text_model."
ANCHOR = (
    r"(?:params/)?(?:vision_model[./]embeddings[./]class_embedding|text_model[./]embeddings[./]"
    r"token_embedding[./](?:weight|embedding))|visual\.class_embedding|token_embedding\.weight"
)
SCALARS = ("logit_scale", "input_resolution", "context_length", "vocab_size")
VISION_MARK = "vision_model.embeddings.class_embedding"
TEXT_MARK = "text_model.embeddings.token_embedding.weight"
OPENAI_MARKS = ("visual.class_embedding", "token_embedding.weight")
TOP = {
    VISION: {
        "embeddings.class_embedding": "cls_token",
        "embeddings.patch_embedding.weight": "patch_embed/kernel",
        "embeddings.position_embedding.weight": "pos_embed",
        "pre_layrnorm": "pre_norm",  # the hub's spelling
        "post_layernorm": "norm",
        "projection.weight": "projection/kernel",
    },
    TEXT: {
        "embeddings.token_embedding.weight": "token_embed",
        "embeddings.position_embedding.weight": "pos_embed",
        "final_layer_norm": "norm",
        "projection.weight": "projection/kernel",
    },
}
BLOCK = {
    "self_attn.q_proj": "attn/query",
    "self_attn.k_proj": "attn/key",
    "self_attn.v_proj": "attn/value",
    "self_attn.out_proj": "attn/out",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "mlp.fc1": "mlp/fc1",
    "mlp.fc2": "mlp/fc2",
}
PROJECTIONS = {"visual_projection.weight": VISION, "text_projection.weight": TEXT}
# Patterns in OpenAI's names, and their replacements in the hub's.
OPENAI = {
    r"^visual\.conv1\.": "vision_model.embeddings.patch_embedding.",
    r"^visual\.class_embedding$": "vision_model.embeddings.class_embedding",
    r"^visual\.positional_embedding$": "vision_model.embeddings.position_embedding.weight",
    r"^visual\.ln_pre\.": "vision_model.pre_layrnorm.",
    r"^visual\.ln_post\.": "vision_model.post_layernorm.",
    r"^visual\.proj$": "visual_projection.weight",
    r"^visual\.transformer\.resblocks\.": "vision_model.encoder.layers.",
    r"^transformer\.resblocks\.": "text_model.encoder.layers.",
    r"^token_embedding\.": "text_model.embeddings.token_embedding.",
    r"^positional_embedding$": "text_model.embeddings.position_embedding.weight",
    r"^ln_final\.": "text_model.final_layer_norm.",
    r"^text_projection$": "text_projection.weight",
    r"\.attn\.out_proj\.": ".self_attn.out_proj.",
    r"\.ln_([12])\.": r".layer_norm\1.",
    r"\.mlp\.c_fc\.": ".mlp.fc1.",
    r"\.mlp\.c_proj\.": ".mlp.fc2.",
}
TRANSPOSED = ("visual.proj", "text_projection")  # stored (in, out), unlike other matrices


def recognises(names: Collection[str]) -> bool:
    """Return whether names are those of a CLIP, or of one of its towers."""
    dotted = {n.removeprefix("params/").replace("/", ".") for n in names}
    dotted |= {re.sub(r"\.embedding$", ".weight", n) for n in dotted}
    return any(mark in dotted for mark in (VISION_MARK, TEXT_MARK, *OPENAI_MARKS))


def translate(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any], tower: str = VISION
) -> dict[str, np.ndarray]:
    """Return the arrays of `tower` by our names; heads are split as in `expected`."""
    out = {}
    for name, array in to_hub(arrays).items():
        found = our_name(name)
        if found is None:
            out[f"unused/{name}" if _is_scalar(name) else name] = array
        elif found[0] != tower:
            out[f"unused/{name}"] = array
        else:
            out[found[1]] = _our_layout(found[1], array, expected.get(found[1]))
    return out


def our_name(name: str) -> tuple[str, str] | None:
    """Return the tower and our name for one of the hub's; None if it belongs to neither tower."""
    if name in PROJECTIONS:
        return PROJECTIONS[name], "projection/kernel"
    tower = next((t for t in TOP if name.startswith(t)), None)
    if tower is None:
        return None
    place, _, kind = name.removeprefix(tower).rpartition(".")
    if ours := TOP[tower].get(f"{place}.{kind}"):
        return tower, ours
    ours = TOP[tower].get(place)
    if m := re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)", place):
        ours = f"layers/{m[1]}/{BLOCK[m[2]]}" if m[2] in BLOCK else None
    if ours is None or kind not in ("weight", "bias"):
        return None
    matrix = "attn" in ours or "mlp" in ours
    return tower, f"{ours}/{'bias' if kind == 'bias' else 'kernel' if matrix else 'scale'}"


def to_hub(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of any of the three kinds of files in the hub's names and layout."""
    if any("/" in name for name in arrays):
        return dict(_from_flax(n, a) for n, a in arrays.items())
    if any(mark in arrays for mark in OPENAI_MARKS):
        return {n: a for name, array in arrays.items() for n, a in _from_openai(name, array)}
    return dict(arrays)


def _from_flax(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    name = name.removeprefix("params/").replace("/", ".")
    place, _, kind = name.rpartition(".")
    if kind == "kernel":
        return f"{place}.weight", array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return (f"{place}.weight", array) if kind in ("scale", "embedding") else (name, array)


def _from_openai(name: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
    array = array.T if name in TRANSPOSED else array
    for pattern, instead in OPENAI.items():
        name = re.sub(pattern, instead, name)
    m = re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", name)
    if m is None or len(array) % 3:
        return [(name, array)]
    parts = zip("qkv", np.split(array, 3), strict=True)
    return [(f"{m[1]}.self_attn.{letter}_proj.{m[2]}", part) for letter, part in parts]


def _is_scalar(name: str) -> bool:
    return name in SCALARS or name.endswith(".position_ids")


def _our_layout(ours: str, array: np.ndarray, like: Any | None) -> np.ndarray:
    """Turn (out, in) to (in, out); what does not fit stays, for the error message."""
    if ours == "cls_token":
        return array.reshape(1, -1)
    if ours.endswith("kernel"):
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T  # p p C D, or in out
    if "/attn/" not in ours or like is None or like.size != array.size:
        return array
    return array.reshape(like.shape)
