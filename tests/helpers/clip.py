"""Tiny CLIPs as files, in the three ways that CLIP's files are written; a tiny tokenizer."""

import functools
import json
from pathlib import Path

import numpy as np

from vpjax.models.text import tokenizer

DATA = Path(__file__).parents[1] / "golden" / "data" / "mop_clip"
GRID, PATCH, JOINT, WORDS, CONTEXT = 3, 4, 6, 40, 9
VISION = {"width": 16, "mlp": 24, "heads": 4, "depth": 2}
TEXT = {"width": 8, "mlp": 20, "heads": 2, "depth": 3}
KEYS = {"width": "hidden_size", "mlp": "intermediate_size", "heads": "num_attention_heads"}
KEYS |= {"depth": "num_hidden_layers"}


def config(**changes):
    """Returns what config.json says."""
    vision = {KEYS[k]: v for k, v in VISION.items()}
    vision |= {"image_size": GRID * PATCH, "patch_size": PATCH}
    text = {KEYS[k]: v for k, v in TEXT.items()}
    text |= {"vocab_size": WORDS, "max_position_embeddings": CONTEXT}
    whole = {"model_type": "clip", "projection_dim": JOINT}
    return whole | {"vision_config": vision, "text_config": text} | changes


def hub():
    """Returns both towers' arrays by the hub's names: each holds its own numbers."""
    draw = np.random.default_rng(0).standard_normal
    out = {"logit_scale": draw(())}
    for side, s in (("vision", VISION), ("text", TEXT)):
        width, layers = s["width"], f"{side}_model.encoder.layers"
        norms = [f"{layers}.{i}.layer_norm{k}" for i in range(s["depth"]) for k in (1, 2)]
        ends = {"vision": ("pre_layrnorm", "post_layernorm"), "text": ("final_layer_norm",)}[side]
        for name in (*norms, *(f"{side}_model.{n}" for n in ends)):
            out |= {f"{name}.weight": draw(width), f"{name}.bias": draw(width)}
        linear = {f"self_attn.{n}_proj": (width, width) for n in ("q", "k", "v", "out")}
        linear |= {"mlp.fc1": (s["mlp"], width), "mlp.fc2": (width, s["mlp"])}
        for i in range(s["depth"]):
            for name, shape in linear.items():
                out[f"{layers}.{i}.{name}.weight"] = draw(shape)
                out[f"{layers}.{i}.{name}.bias"] = draw(shape[0])
    width, table = VISION["width"], "embeddings.position_embedding.weight"
    out["visual_projection.weight"] = draw((JOINT, width))
    out["vision_model.embeddings.class_embedding"] = draw(width)
    out["vision_model.embeddings.patch_embedding.weight"] = draw((width, 3, PATCH, PATCH))
    out[f"vision_model.{table}"] = draw((1 + GRID * GRID, width))
    width = TEXT["width"]
    out["text_projection.weight"] = draw((JOINT, width))
    out["text_model.embeddings.token_embedding.weight"] = draw((WORDS, width))
    out[f"text_model.{table}"] = draw((CONTEXT, width))
    return {n: np.asarray(v, np.float32) for n, v in out.items()}


def flax():
    """Returns the same as a tree of Flax."""
    tree = {}
    for name, array in hub().items():
        *path, last = name.split(".")
        if last == "weight":
            last = "scale" if "norm" in path[-1] else "kernel"
            last = "embedding" if path[-1] in ("token_embedding", "position_embedding") else last
        if last == "kernel":
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        place = tree
        for step in path:
            place = place.setdefault(step, {})
        place[last] = array
    return tree


def openai():
    """Returns the same in OpenAI's names, with the three numbers of its archives."""
    out, arrays = {}, hub()
    for theirs, side, depth in (
        ("visual.transformer", "vision", VISION["depth"]),
        ("transformer", "text", TEXT["depth"]),
    ):
        parts = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1"}
        parts |= {"ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
        for i in range(depth):
            block, ours = f"{theirs}.resblocks.{i}", f"{side}_model.encoder.layers.{i}"
            for kind in ("weight", "bias"):
                for new, old in parts.items():
                    out[f"{block}.{new}.{kind}"] = arrays[f"{ours}.{old}.{kind}"]
                rows = [arrays[f"{ours}.self_attn.{n}_proj.{kind}"] for n in "qkv"]
                out[f"{block}.attn.in_proj_{kind}"] = np.concatenate(rows)
    names = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "ln_final": "text_model.final_layer_norm",
    }
    names["visual.ln_post"] = "vision_model.post_layernorm"
    for new, old in names.items():
        out |= {f"{new}.{kind}": arrays[f"{old}.{kind}"] for kind in ("weight", "bias")}
    vision, text = "vision_model.embeddings", "text_model.embeddings"
    out["visual.conv1.weight"] = arrays[f"{vision}.patch_embedding.weight"]
    out["visual.class_embedding"] = arrays[f"{vision}.class_embedding"]
    out["visual.positional_embedding"] = arrays[f"{vision}.position_embedding.weight"]
    out["visual.proj"] = arrays["visual_projection.weight"].T
    out["token_embedding.weight"] = arrays[f"{text}.token_embedding.weight"]
    out["positional_embedding"] = arrays[f"{text}.position_embedding.weight"]
    out["text_projection"] = arrays["text_projection.weight"].T
    out["logit_scale"] = arrays["logit_scale"]
    numbers = {"input_resolution": GRID * PATCH, "context_length": CONTEXT, "vocab_size": WORDS}
    return out | {n: np.int64(v) for n, v in numbers.items()}


def folder(path, arrays=None, described=None):
    """Lays a model out as the hub does, with weights as npz (what a file is, its content says)."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(described or config()))
    with open(path / "model.safetensors", "wb") as stream:
        np.savez(stream, **(arrays or hub()))
    return str(path)


@functools.cache
def words():
    """Returns merges and vocabulary: the part of CLIP's that some texts need."""
    found = json.loads((DATA / "tokenizer_mini_vocab.json").read_text())
    return found["merges"], found["vocab"]


@functools.cache
def small_tokenizer():
    return tokenizer.Tokenizer(tokenizer.from_merges(*words()))


def write_words(path):
    """Writes vocab.json and merges.txt."""
    merges, vocab = words()
    (path / "vocab.json").write_text(json.dumps(vocab))
    (path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return path
