"""Names in CLIP files: of the Hugging Face hub, of its Flax files, of OpenAI and of OpenCLIP.

    hub      vision_model.encoder.layers.7.self_attn.q_proj.weight    (out, in)
    flax     vision_model/encoder/layers/7/self_attn/q_proj/kernel    (in, out)
    OpenAI   visual.transformer.resblocks.7.attn.in_proj_weight       query, key, value in one
    ours     layers/7/attn/query/kernel                               (D, N, d)

Everything is brought to the hub's names first. OpenCLIP writes OpenAI's names; in some of its
models the text tower's stand behind "text.".
"""

import re
from collections.abc import Collection, Iterable, Mapping

import numpy as np

VISION, TEXT = "vision_model.", "text_model."
# A name of every file, see `vpjax.weights.anchor`.
ANCHOR = (
    r"(?:params/)?vision_model[./]embeddings[./]class_embedding|pre_layrnorm\.weight"
    r"|(?:params/)?text_model[./]embeddings[./]token_embedding[./](?:weight|embedding)"
    r"|(?:embeddings\.|text\.)?token_embedding\.weight|visual\.class_embedding"
    r"|visual\.trunk\..+|visual\.attnpool\.positional_embedding|image_encoder\.model\..+"
)
SCALARS = ("logit_scale", "logit_bias", "input_resolution", "context_length", "vocab_size")
VISION_MARK = "vision_model.embeddings.class_embedding"
TEXT_MARK = "text_model.embeddings.token_embedding.weight"
# In OpenAI's names.
OPENAI_MARKS = ("visual.class_embedding", "text.token_embedding.weight", "token_embedding.weight")
# Of a file that holds one tower, whose names then do not say which.
ALONE = {
    VISION: ("embeddings.class_embedding", "pre_layrnorm.weight"),
    TEXT: ("embeddings.token_embedding.weight", "final_layer_norm.weight"),
}
TRUNK = "visual.trunk."  # OpenCLIP's image encoders of timm, which keep timm's names
RESNET_MARK = "visual.attnpool.positional_embedding"
MOBILE_MARK = "image_encoder.model."  # Apple's files of MobileCLIP
# Of models whose names only look like CLIP's: SigLIP's two towers, and others of the hub.
FOREIGN = ("vision_model.embeddings.patch_embedding.bias", "text_model.head.weight")
PROJECTIONS = {
    "visual_projection.weight": (VISION, "projection/kernel"),
    "text_projection.weight": (TEXT, "projection/kernel"),
    "text_projection.bias": (TEXT, "projection/bias"),
}
TOP = {
    VISION: {
        "embeddings.class_embedding": "cls_token",
        "embeddings.patch_embedding.weight": "patch_embed/kernel",
        "embeddings.position_embedding.weight": "pos_embed",
        "pre_layrnorm": "pre_norm",  # the hub's spelling
        "post_layernorm": "norm",
    },
    TEXT: {
        "embeddings.token_embedding.weight": "token_embed",
        "embeddings.position_embedding.weight": "pos_embed",
        "final_layer_norm": "norm",
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
# Patterns in OpenAI's names, and their replacements in the hub's.
OPENAI = {
    r"^text\.(?=token_embedding|positional_embedding|transformer\.resblocks|ln_final)": "",
    r"^text\.(?=text_projection)": "",
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
# Stored (in, out), unlike other matrices.
TRANSPOSED = ("visual.proj", "text_projection", "text.text_projection")


def recognises(names: Collection[str]) -> bool:
    """Return whether names are those of a CLIP, or of one of its towers."""
    dotted = set(undotted(names))
    if any(foreign in dotted for foreign in FOREIGN):
        return False
    marks = (VISION_MARK, TEXT_MARK, *OPENAI_MARKS, RESNET_MARK)
    known = any(m in dotted for m in marks) or bool(alone(dotted))
    return known or any(n.startswith((TRUNK, MOBILE_MARK)) for n in dotted)


def undotted(names: Iterable[str]) -> list[str]:
    """Return names of Flax's files as they are in the hub's other files."""
    dotted = (n.removeprefix("params/").replace("/", ".") for n in names)
    return [re.sub(r"\.(embedding|kernel|scale)$", ".weight", n) for n in dotted]


def in_openai_names(names: Collection[str]) -> bool:
    """Return whether names are those of OpenAI's code or OpenCLIP, not of the hub."""
    marks = (*OPENAI_MARKS, RESNET_MARK)
    return any(m in names for m in marks) or any(n.startswith(TRUNK) for n in names)


def our_name(name: str) -> tuple[str, str] | None:
    """Return the tower and our name for one of the hub's; None if it belongs to neither tower.

    A name that its tower does not have here stays as it is.
    """
    if name in PROJECTIONS:
        return PROJECTIONS[name]
    if name.startswith(("visual.", "text.")):  # other encoders of OpenCLIP
        return (VISION if name.startswith("visual.") else TEXT), name
    tower = next((t for t in TOP if name.startswith(t)), None)
    if tower is None:
        return None
    place, _, kind = name.removeprefix(tower).rpartition(".")
    if ours := TOP[tower].get(f"{place}.{kind}"):
        return tower, ours
    ours = TOP[tower].get(place)
    if m := re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)", place):
        if scale := re.fullmatch(r"ls_([12])\.gamma", f"{m[2]}.{kind}"):
            return tower, f"layers/{m[1]}/scale{scale[1]}"
        ours = f"layers/{m[1]}/{BLOCK[m[2]]}" if m[2] in BLOCK else None
    if ours is None or kind not in ("weight", "bias"):
        return None
    matrix = "attn" in ours or "mlp" in ours
    return tower, f"{ours}/{'bias' if kind == 'bias' else 'kernel' if matrix else 'scale'}"


def to_hub(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of any of the kinds of files in the hub's names and layout."""
    if any("/" in name for name in arrays):
        arrays = dict(_from_flax(n, a) for n, a in arrays.items())
    if in_openai_names(arrays):
        return {n: a for name, array in arrays.items() for n, a in _from_openai(name, array)}
    tower = alone(arrays)
    return {f"{tower}{n}": a for n, a in arrays.items()}


def alone(names: Collection[str]) -> str:
    """Return the tower whose names stand without it, as transformers 5 writes one tower; or ""."""
    return next((t for t, marks in ALONE.items() if all(m in names for m in marks)), "")


def shapes_in_hub(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a file's arrays by the hub's names, in its layout."""
    # Views of one number: as large as the shapes say, without their memory.
    empty = {n: np.broadcast_to(np.float32(0), s) for n, s in shapes.items()}
    return {n: a.shape for n, a in to_hub(empty).items()}


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


def is_scalar(name: str) -> bool:
    """Return whether an array of neither tower is left out."""
    return name in SCALARS or name.endswith(".position_ids")
