"""Makes tests/zoo/data/timm_*: small models of timm 1.0.31, saved by it, and what they compute.

    python tests/zoo/make_timm.py [NAME ...]        needs torch and timm

Every parameter is random and fits float16. Each folder has config.json and model.safetensors as
timm writes them for the hub, and recorded.npz: normalised images, pooled features, logits where the
model has a head, and the same at another size of images, to which timm resizes positions.
"""

import copy
import sys
from pathlib import Path

import numpy as np
import timm
import torch
from timm.models._hub import save_for_hf

DATA = Path(__file__).parent / "data"
SIZES = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "img_size": 16}
# folder: architecture, classes, what differs from SIZES
CASES = {
    "vit": ("vit_base_patch16_224", 3, {}),
    "vit_wide": ("vit_base_patch16_224", 3, {"img_size": (12, 20)}),
    "mae_tuned": ("vit_base_patch16_224", 3, {"global_pool": "avg"}),
    "dino": ("vit_small_patch8_224", 0, {"patch_size": 4}),
    "miil": ("vit_base_patch16_224_miil", 3, {}),
    "siglip": ("vit_base_patch16_siglip_224", 0, {}),
    "siglip2": ("vit_so400m_patch16_siglip_256", 0, {}),
    "siglip_gap": ("vit_base_patch16_siglip_gap_224", 0, {}),
    "clip": ("vit_base_patch16_clip_224", 3, {}),
    "clip_quickgelu": ("vit_base_patch16_clip_quickgelu_224", 0, {}),
    "reg4_gap": ("vit_base_patch16_reg4_gap_256", 3, {}),
    "medium_gap": ("vit_medium_patch16_gap_256", 3, {}),
    "so150m_map": ("vit_so150m_patch16_reg4_map_256", 3, {}),
    "deit": ("deit_small_patch16_224", 3, {}),
    "deit_distilled": ("deit_small_distilled_patch16_224", 3, {}),
    "deit3": ("deit3_small_patch16_224", 3, {}),
    "dinov2": ("vit_small_patch14_dinov2", 0, {}),
    "dinov2_reg4": ("vit_small_patch14_reg4_dinov2", 0, {}),
    "dinov2_giant": ("vit_giant_patch14_dinov2", 0, {"embed_dim": 24}),
    "dinov3": ("vit_small_patch16_dinov3", 0, {}),
    "dinov3_plus": ("vit_small_plus_patch16_dinov3_qkvb", 0, {}),
    "beit": ("beit_base_patch16_224", 3, {}),
    "beitv2": ("beitv2_base_patch16_224", 3, {}),
    "eva_giant": ("eva_giant_patch14_224", 3, {}),
    "eva02_small": ("eva02_small_patch14_224", 0, {}),
    "eva02_base": ("eva02_base_patch14_448", 3, {}),
    "eva02_clip": ("eva02_base_patch16_clip_224", 3, {}),
    "rope_reg1_gap": ("vit_medium_patch16_rope_reg1_gap_256", 3, {}),
    "flexivit": ("flexivit_small", 3, {}),
}
OTHER = (24, 20)  # pixels


def randomise(model, seed):
    """Draw every parameter, none of them 0 or 1, in numbers that float16 has."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            x = torch.randn(p.shape, generator=random)
            norm = name.endswith("weight") and p.ndim == 1
            scale = norm or "gamma" in name
            p.copy_((1 + 0.3 * x if scale else 0.2 * x if p.ndim > 1 else 0.3 * x).half().float())
    return model.eval()


def images(size, seed=0):
    draw = np.random.default_rng(seed).standard_normal((2, *size, 3))
    return draw.astype(np.float16).astype(np.float32)


@torch.no_grad()
def outputs(model, x):
    """Return pooled features, and logits of a model that has a head."""
    x = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    tokens = model.forward_features(x)
    out = {"features": model.forward_head(tokens, pre_logits=True).numpy()}
    return out | ({"logits": model(x).numpy()} if model.num_classes else {})


def make(folder, architecture, classes, given):
    args = SIZES | given
    model = timm.create_model(architecture, num_classes=classes, **args)
    randomise(model, sum(map(ord, folder)))
    path = DATA / f"timm_{folder}"
    path.mkdir(parents=True, exist_ok=True)
    # A copy: tables of rotary positions would lose digits on their way through float16.
    save_for_hf(copy.deepcopy(model).half(), path, model_args=args, safe_serialization=True)
    size = model.patch_embed.img_size
    record = {"images": images(size)} | outputs(model, images(size))
    model.set_input_size(OTHER)
    found = outputs(model, images(OTHER, 1)) | {"images": images(OTHER, 1)}
    record |= {f"other_{n}": v for n, v in found.items()}
    np.savez_compressed(path / "recorded.npz", **{n: half(n, v) for n, v in record.items()})


def half(name, array):
    return array.astype(np.float16) if name.endswith("images") else array


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        make(name, *CASES[name])
