"""Make the recorded cases of transformers and torchvision: small random models and their features.

    python -m tests.zoo.make_transformers [NAME ...]
    python -m tests.zoo.make_transformers --full FOLDER [NAME ...]      of full size, float32

Needs torch, transformers and torchvision. Every parameter and buffer is random, so that none is 0
or 1; numbers are those of float16, in which the files are kept. A folder holds the weights and the
configuration as the library writes them, and `recorded.npz`: normalised images B H W C, the
library's features of them, logits where the model has a classifier, and images of another size
with their features where the library takes such.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
import torchvision
import transformers as T
from safetensors.torch import save_file

DATA = Path(__file__).parent / "data"
EDGE, OTHER = 16, (24, 12)  # pixels; rows of cells become more, columns fewer
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"image_size": EDGE, "patch_size": 4}
MLP = {"intermediate_size": 24}
NUM_LABELS = {"num_labels": 3}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8}
TEXT |= {"intermediate_size": 8, "max_position_embeddings": 4}
RELATIVE = {"use_relative_position_bias": True}


class Case(NamedTuple):
    """A model, and where its features are.

    Attributes:
        model: the class.
        config: of the model.
        features: outputs, model -> B D.
        other: keyword arguments for images of another size; None: it takes none.
    """

    model: type
    config: T.PretrainedConfig
    features: Callable
    other: dict | None = {}  # noqa: RUF012


def token(out, model):
    return out.last_hidden_state[:, 0]


def pooled(out, model):
    return out.pooler_output


RESIZED = {"interpolate_pos_encoding": True}
CASES = {
    "vit": Case(
        T.ViTForImageClassification,
        T.ViTConfig(hidden_act="gelu_pytorch_tanh", **SMALL, **MLP, **NUM_LABELS),
        token,
        RESIZED,
    ),
    "vit_model": Case(T.ViTModel, T.ViTConfig(qkv_bias=False, **SMALL, **MLP), token, RESIZED),
    "vit_msn": Case(T.ViTMSNModel, T.ViTMSNConfig(**SMALL, **MLP), token, RESIZED),
    "ijepa": Case(
        T.IJepaForImageClassification,
        T.IJepaConfig(**SMALL, **MLP, **NUM_LABELS),
        lambda out, model: out.last_hidden_state.mean(1),
        RESIZED,
    ),
    "deit": Case(
        T.DeiTForImageClassification, T.DeiTConfig(**SMALL, **MLP, **NUM_LABELS), token, RESIZED
    ),
    "deit_teacher": Case(
        T.DeiTForImageClassificationWithTeacher,
        T.DeiTConfig(**SMALL, **MLP, **NUM_LABELS),
        token,
        RESIZED,
    ),
    "vit_mae": Case(
        T.ViTMAEForPreTraining,
        T.ViTMAEConfig(
            **(SMALL | MLP),
            mask_ratio=0.0,
            decoder_hidden_size=8,
            decoder_num_attention_heads=2,
            decoder_num_hidden_layers=1,
            decoder_intermediate_size=8,
        ),
        token,
        RESIZED,
    ),
    "beit": Case(
        T.BeitForImageClassification, T.BeitConfig(**SMALL, **MLP, **NUM_LABELS, **RELATIVE), pooled
    ),
    "beit_positions": Case(
        T.BeitModel,
        T.BeitConfig(use_absolute_position_embeddings=True, **(SMALL | MLP)),
        pooled,
    ),
    "beit_shared": Case(
        T.BeitModel,
        T.BeitConfig(
            use_shared_relative_position_bias=True,
            use_absolute_position_embeddings=True,
            use_mean_pooling=False,
            use_mask_token=True,
            **(SMALL | MLP),
        ),
        token,
        None,
    ),
    "beit_masked": Case(
        T.BeitForMaskedImageModeling,
        T.BeitConfig(
            use_shared_relative_position_bias=True,
            use_mask_token=True,
            vocab_size=5,
            **(SMALL | MLP | RELATIVE),
        ),
        lambda out, model: model.layernorm(out.last_hidden_state)[:, 1:].mean(1),
    ),
    "data2vec": Case(
        T.Data2VecVisionForImageClassification,
        T.Data2VecVisionConfig(**SMALL, **MLP, **NUM_LABELS, **RELATIVE),
        pooled,
    ),
    "dinov2": Case(
        T.Dinov2ForImageClassification, T.Dinov2Config(mlp_ratio=2, **SMALL, **NUM_LABELS), pooled
    ),
    "dinov2_swiglu": Case(
        T.Dinov2WithRegistersForImageClassification,
        T.Dinov2WithRegistersConfig(
            use_swiglu_ffn=True, mlp_ratio=2, num_register_tokens=3, **SMALL, **NUM_LABELS
        ),
        pooled,
    ),
    "dinov3": Case(T.DINOv3ViTModel, T.DINOv3ViTConfig(**SMALL, **MLP), pooled),
    "dinov3_gated": Case(
        T.DINOv3ViTModel,
        T.DINOv3ViTConfig(
            use_gated_mlp=True,
            hidden_act="silu",
            num_register_tokens=2,
            rope_theta=50.0,
            key_bias=True,
            **(SMALL | MLP),
        ),
        pooled,
    ),
    "siglip": Case(
        T.SiglipForImageClassification,
        T.SiglipConfig(vision_config=SMALL | MLP, text_config=TEXT, **NUM_LABELS),
        pooled,
        RESIZED,
    ),
    "siglip_towers": Case(
        T.SiglipModel, T.SiglipConfig(vision_config=SMALL | MLP, text_config=TEXT), pooled, RESIZED
    ),
    "siglip2_naflex": Case(
        T.Siglip2VisionModel,
        T.Siglip2VisionConfig(
            num_patches=16, **{k: v for k, v in (SMALL | MLP).items() if k != "image_size"}
        ),
        pooled,
    ),
}


# The sizes that their authors publish most, or the smallest of these.
DINOV2_S = {"hidden_size": 384, "num_attention_heads": 6, "patch_size": 14, "image_size": 224}
FULL = {
    "vit": Case(T.ViTForImageClassification, T.ViTConfig(), token),
    "deit": Case(T.DeiTForImageClassification, T.DeiTConfig(), token),
    "vit_mae": Case(T.ViTMAEForPreTraining, T.ViTMAEConfig(mask_ratio=0.0), token),
    "beit": Case(T.BeitForImageClassification, T.BeitConfig(**RELATIVE), pooled),
    "data2vec": Case(
        T.Data2VecVisionForImageClassification, T.Data2VecVisionConfig(**RELATIVE), pooled
    ),
    "dinov2": Case(T.Dinov2Model, T.Dinov2Config(**DINOV2_S), pooled),
    "dinov2_registers": Case(
        T.Dinov2WithRegistersModel, T.Dinov2WithRegistersConfig(**DINOV2_S), pooled
    ),
    "dinov3": Case(T.DINOv3ViTModel, T.DINOv3ViTConfig(num_register_tokens=4), pooled),
    "siglip": Case(T.SiglipVisionModel, T.SiglipVisionConfig(), pooled),
    "siglip2_naflex": Case(T.Siglip2VisionModel, T.Siglip2VisionConfig(), pooled),
}


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Draw all parameters anew: matrices by their width, vectors about their first values."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        draw = torch.randn(parameter.shape, generator=rng)
        if parameter.ndim >= 2 and parameter.shape[-1] > 1 and parameter.shape[0] > 1:
            draw = draw * parameter[0].numel() ** -0.5
        elif parameter.numel() and (parameter == parameter.mean()).all() and parameter.mean() > 0:
            draw = 0.8 + 0.3 * draw  # scales
        else:
            draw = 0.5 * draw
        parameter.data = draw.half().float()


def pixels(size: tuple[int, int], seed: int) -> np.ndarray:
    """Return two images, B H W C, of numbers that float16 has."""
    draw = np.random.default_rng(seed).standard_normal((2, *size, 3))
    return draw.astype(np.float16).astype(np.float32)


def inputs(case: Case, images: np.ndarray) -> dict:
    """Return what the model takes for images B H W C."""
    if case.model is not T.Siglip2VisionModel:
        out = {"pixel_values": torch.from_numpy(images).permute(0, 3, 1, 2)}
        if case.model is T.ViTMAEForPreTraining:
            cells = images.shape[1] * images.shape[2] // case.config.patch_size**2
            out["noise"] = torch.arange(cells)[None].repeat(len(images), 1).float()
        return out
    patch = case.config.patch_size
    batch, height, width, channels = images.shape
    h, w = height // patch, width // patch
    cells = images.reshape(batch, h, patch, w, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return {
        "pixel_values": torch.from_numpy(cells.reshape(batch, h * w, -1).copy()),
        "pixel_attention_mask": torch.ones((batch, h * w), dtype=torch.int32),
        "spatial_shapes": torch.tensor([[h, w]] * batch),
    }


def encoder(model: torch.nn.Module) -> torch.nn.Module:
    """Return the part of a model whose features are compared."""
    if isinstance(model, (T.SiglipModel, T.SiglipForImageClassification)):
        return model.vision_model
    return model.base_model if "For" in type(model).__name__ else model


@torch.no_grad()
def record(name: str, case: Case, folder: Path, full: bool = False) -> None:
    """Write the folder of a case."""
    torch.manual_seed(0)
    model = case.model(case.config).eval()
    randomise(model, seed=len(name))
    edge = getattr(case.config, "image_size", 256) if full else EDGE
    images, bare = pixels((edge, edge), 1), encoder(model)
    features = case.features(bare(**inputs(case, images)), model)
    recorded = {"images": images, "features": features}
    if hasattr(case.config, "num_labels") and "ForImageClassification" in case.model.__name__:
        recorded["logits"] = model(**inputs(case, images)).logits
    if case.other is not None and not full:
        other = pixels(OTHER, 2)
        features = case.features(bare(**inputs(case, other), **case.other), model)
        recorded |= {"other_images": other, "other_features": features}
    save(folder, recorded, torch, T)
    (model if full else model.half()).save_pretrained(folder)


@torch.no_grad()
def record_torchvision(folder: Path, full: bool = False) -> None:
    """Write the folder of torchvision's ViT."""
    edge = 224 if full else EDGE
    size = {"hidden_dim": 16, "num_layers": 2, "num_heads": 2, "mlp_dim": 24}
    small = lambda: torchvision.models.VisionTransformer(EDGE, 4, num_classes=3, **size)  # noqa: E731
    model = (torchvision.models.vit_b_16 if full else small)().eval()
    randomise(model, seed=3)
    images = pixels((edge, edge), 1)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    head, model.heads = model.heads, torch.nn.Identity()
    features = model(tensor)
    model.heads = head
    save(
        folder,
        {"images": images, "features": features, "logits": model(tensor)},
        torch,
        torchvision,
    )
    arrays = (model if full else model.half()).state_dict()
    save_file(arrays, folder / "model.safetensors")


def save(folder: Path, recorded: dict, *libraries: ModuleType) -> None:
    """Write recorded.npz; images as float16, which holds them exactly. And what made it."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {n: np.asarray(v) for n, v in recorded.items()}
    narrow = {n: v.astype(np.float16) if n.endswith("images") else v for n, v in arrays.items()}
    np.savez_compressed(folder / "recorded.npz", **narrow)
    versions = {library.__name__: library.__version__ for library in libraries}
    (folder / "made_with.json").write_text(json.dumps(versions) + "\n")


def main() -> None:
    """Write the folders that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--full", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    chosen = options.names
    if options.full:
        for name, case in FULL.items():
            if not chosen or name in chosen:
                record(name, case, options.full / f"transformers_{name}", full=True)
        if not chosen or "torchvision" in chosen:
            record_torchvision(options.full / "torchvision_vit_b_16", full=True)
        return
    for name, case in CASES.items():
        if not chosen or name in chosen:
            record(name, case, DATA / f"transformers_{name}")
    if not chosen or "torchvision" in chosen:
        record_torchvision(DATA / "torchvision_vit")


if __name__ == "__main__":
    main()
