"""Makes small random CLIPs with open_clip and transformers, as those libraries save them.

    python tests/zoo/make_clip.py        needs torch, open_clip_torch 3.3, transformers 5.24

Each folder of tests/zoo/data/clip_* holds weights, their configuration, and `recorded.npz`: images
as normalised input, ids of texts, and what the library computes from them in evaluation mode.
Numbers are float16, in which every weight and every pixel is exact.
"""

import functools
import json
import shutil
import unittest.mock
from pathlib import Path

import numpy as np
import open_clip
import safetensors.torch
import timm
import torch
import transformers
from open_clip.push_to_hf_hub import save_config_for_hf

DATA = Path(__file__).parent / "data"
SIZE, WORDS, CONTEXT = 16, 40, 9
VISION = {"image_size": SIZE, "layers": 2, "width": 16, "patch_size": 4, "head_width": 8}
VISION |= {"mlp_ratio": 2.0}
TEXT = {"context_length": CONTEXT, "vocab_size": WORDS, "width": 16, "heads": 4, "layers": 2}
TEXT |= {"mlp_ratio": 2.0}


def model_cfg(vision=(), text=(), **more):
    return {
        "embed_dim": 12,
        "vision_cfg": VISION | dict(vision),
        "text_cfg": TEXT | dict(text),
    } | more


OPEN_CLIP = {
    "clip_open_gelu": model_cfg(),
    "clip_open_quick_gelu": model_cfg({"head_width": 4}, quick_gelu=True),
    "clip_open_avg": model_cfg({"pool_type": "avg"}),
    # Options of CLIPA and SigLIP's predecessors, a text tower behind "text." with a bias.
    "clip_open_all": model_cfg(
        {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True, "ls_init_value": 0.1}
        | {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 0.01}}
        | {"image_size": [16, 24]},
        {"proj_bias": True, "ls_init_value": 0.1, "norm_kwargs": {"eps": 0.01}},
        custom_text=True,
    ),
}
HUB_VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HUB_VISION |= {"num_attention_heads": 4, "image_size": SIZE, "patch_size": 4, "projection_dim": 12}
HUB_TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HUB_TEXT |= {"num_attention_heads": 2, "vocab_size": WORDS, "max_position_embeddings": CONTEXT}
HUB_TEXT |= {"bos_token_id": WORDS - 2, "eos_token_id": WORDS - 1, "projection_dim": 12}
GELU = {"hidden_act": "gelu", "layer_norm_eps": 0.001}


def randomise(model, seed):
    """Give every parameter numbers that are neither 0 nor 1, exact in float16."""
    make = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        draw = torch.randn(p.shape, generator=make)
        if name == "logit_scale":
            draw = torch.full(p.shape, 2.5)
        elif name.endswith("gamma"):
            draw = 0.6 + 0.2 * draw
        elif p.ndim < 2:
            draw = 0.2 * draw + (1.0 if name.endswith("weight") else 0.0)
        elif "embedding" in name and "patch" not in name:
            draw = 0.5 * draw
        else:
            fan_in = p[0].numel() if p.ndim == 4 else p.shape[1]
            draw = 1.5 * draw / fan_in**0.5
        p.data = draw.half().float()
    return model.eval()


def images(height=SIZE, width=SIZE):
    draw = np.random.default_rng(7).standard_normal((3, height, width, 3))
    return draw.astype(np.float16).astype(np.float32)


def texts():
    """Return ids: start, some, end (the largest), zeros."""
    out = np.zeros((4, CONTEXT), np.int64)
    for row, length in zip(out, (3, 9, 5, 6), strict=True):
        row[:length] = np.random.default_rng(length).integers(1, WORDS - 2, length)
        row[0], row[length - 1] = WORDS - 2, WORDS - 1
    return out


def chw(x):
    return torch.from_numpy(x.transpose(0, 3, 1, 2))


def fresh(name):
    folder = DATA / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def record(folder, **found):
    arrays = {n: v.numpy() if isinstance(v, torch.Tensor) else v for n, v in found.items()}
    for name in arrays:
        if name.startswith("images"):
            arrays[name] = arrays[name].astype(np.float16)
    np.savez_compressed(folder / "recorded.npz", **arrays)
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{folder.name:28} {size:7,} bytes  {sorted(f.name for f in folder.iterdir())}")


def open_clip_model(cfg):
    custom = cfg.get("custom_text")
    cls = open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP
    return cls(**{k: v for k, v in cfg.items() if k != "custom_text"})


def half(model):
    return {n: v.half().contiguous() for n, v in model.state_dict().items()}


def outputs(model, x, ids):
    """Return features and logits of an OpenCLIP model."""
    image, text = model.encode_image(chw(x)), model.encode_text(torch.from_numpy(ids))
    found = model.get_logits(chw(x), torch.from_numpy(ids))[0]
    return {"images": x, "ids": ids, "features": image, "text_features": text, "logits": found}


def make_open_clip(name, cfg, seed):
    model, folder = randomise(open_clip_model(cfg), seed), fresh(name)
    size = cfg["vision_cfg"]["image_size"]
    x = images(*(size if isinstance(size, list) else (size, size)))
    found = outputs(model, x, texts())
    if name == "clip_open_gelu":
        larger = model_cfg({"image_size": 24})
        other, state = open_clip_model(larger).eval(), model.state_dict()
        open_clip.model.resize_pos_embed(state, other)
        other.load_state_dict(state)
        found |= {"images_24": images(24, 24)}
        found["features_24"] = other.encode_image(chw(found["images_24"]))
    model.visual.image_mean, model.visual.image_std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    safetensors.torch.save_file(half(model), folder / "open_clip_model.safetensors")
    save_config_for_hf(model, folder / "open_clip_config.json", cfg)
    record(folder, **found)


def make_trunk(seed):
    """Make an image encoder of timm in OpenCLIP: EVA-02, narrow, with its head as projection."""
    sizes = {"img_size": SIZE, "patch_size": 4, "embed_dim": 48, "depth": 1, "mlp_ratio": 0.5}
    create = functools.partial(timm.create_model, **sizes)
    vision = {"image_size": SIZE, "timm_model_name": "eva02_base_patch16_clip_224"}
    vision |= {"timm_model_pretrained": False, "timm_pool": "token", "timm_proj": None}
    cfg = model_cfg(custom_text=True) | {"vision_cfg": vision}
    with unittest.mock.patch("open_clip.timm_model.timm.create_model", create):
        model = randomise(open_clip_model(cfg), seed)
    folder, x = fresh("clip_open_timm_vision"), images()
    found = {"images": x, "features": model.encode_image(chw(x))}
    model.visual.image_mean, model.visual.image_std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    state = {n: v for n, v in half(model).items() if n.startswith("visual.")}
    safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")
    save_config_for_hf(model, folder / "open_clip_config.json", cfg)
    record(folder, **found)


def make_training(seed):
    """Make a checkpoint as open_clip_train writes it; nothing lies beside it."""
    cfg = model_cfg({"layers": 1}, {"layers": 1})
    folder, model = fresh("clip_open_training"), randomise(open_clip_model(cfg), seed)
    state = {f"module.{n}": v for n, v in half(model).items()}
    tree = {"epoch": 3, "name": "small", "state_dict": state, "optimizer": {"state": {}}}
    torch.save(tree, folder / "epoch_3.pt")
    record(folder, **outputs(model, images(), texts()))


def make_openai_vision(seed):
    """Make an image encoder in OpenAI's names, with its archives' scalars and heads 64 wide."""
    wide = {"width": 64, "head_width": 64, "layers": 1, "mlp_ratio": 0.25}
    cfg = model_cfg(wide, quick_gelu=True)
    folder, model = fresh("clip_openai_vision"), randomise(open_clip_model(cfg), seed)
    scalars = {"input_resolution": SIZE, "context_length": CONTEXT, "vocab_size": WORDS}
    state = {n: v for n, v in half(model).items() if n.startswith("visual.")}
    state |= {n: torch.tensor(v) for n, v in scalars.items()}
    safetensors.torch.save_file(state, folder / "model.safetensors")
    record(folder, images=images(), features=model.encode_image(chw(images())))


def save(model, folder):
    model.half().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=1) + "\n")


def make_transformers():
    t, x, ids = transformers, images(), texts()
    vision, text = HUB_VISION | GELU, HUB_TEXT | GELU
    model = randomise(
        t.CLIPModel(t.CLIPConfig(vision_config=vision, text_config=text, projection_dim=12)), 11
    )
    out = model(pixel_values=chw(x), input_ids=torch.from_numpy(ids))
    image, words = out.vision_model_output.pooler_output, out.text_model_output.pooler_output
    found = {"features": image, "text_features": words, "logits": out.logits_per_image}
    folder = fresh("clip_hub")
    save(model, folder)
    record(folder, images=x, ids=ids, **found)
    config = t.CLIPVisionConfig(**HUB_VISION)
    for name, cls, seed in (
        ("clip_hub_vision", t.CLIPVisionModel, 12),
        ("clip_hub_vision_projection", t.CLIPVisionModelWithProjection, 13),
    ):
        model, folder = randomise(cls(config), seed), fresh(name)
        out = model(pixel_values=chw(x))
        features = out.image_embeds if name.endswith("projection") else out.pooler_output
        found = {"images": x, "features": features}
        if name == "clip_hub_vision":
            larger = images(24, 24)
            out = model(pixel_values=chw(larger), interpolate_pos_encoding=True)
            found |= {"images_24": larger, "features_24": out.pooler_output}
        save(model, folder)
        record(folder, **found)
    config = t.CLIPTextConfig(**HUB_TEXT)
    for name, cls, seed in (
        ("clip_hub_text", t.CLIPTextModel, 14),
        ("clip_hub_text_projection", t.CLIPTextModelWithProjection, 15),
    ):
        model, folder = randomise(cls(config), seed), fresh(name)
        out = model(input_ids=torch.from_numpy(ids))
        features = out.text_embeds if name.endswith("projection") else out.pooler_output
        save(model, folder)
        record(folder, ids=ids, text_features=features)


if __name__ == "__main__":
    with torch.no_grad():
        for number, (name, cfg) in enumerate(OPEN_CLIP.items()):
            make_open_clip(name, cfg, number)
        make_training(21)
        make_trunk(23)
        make_openai_vision(22)
        make_transformers()
