"""Models of the size that people use: built by their libraries, loaded by the file, compared.

    python -m tests.zoo.full_size [NAME ...]      writes tests/zoo/full_size.json; half an hour

Needs the extra `zoo`. Every parameter and running average is drawn anew, so that none is 0 or 1;
the files are written as the library writes them, in float32, and removed afterwards.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import vpjax
from tests.zoo.loading import difference, features_of

RESULTS = Path(__file__).parent / "full_size.json"
Made = tuple[np.ndarray, np.ndarray]  # images B H W C; features B D


class Full(NamedTuple):
    """A model of full size.

    Attributes:
        size: for readers.
        make: writes a folder of weights; returns images and the library's features of them.
        said: options that no file of this kind says.
    """

    size: str
    make: Callable[[Path], Made]
    said: dict = {}  # noqa: RUF012


def randomise(model) -> None:
    """Draw all parameters and running averages anew."""
    import torch

    from tests.zoo.make_conv import draw

    rng = np.random.default_rng(0)
    averages = ((n, b) for n, b in model.named_buffers() if "running_" in n)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *averages):
            if not name.endswith("k_bias"):  # of timm's Swin v2, which must stay 0
                tensor.copy_(torch.from_numpy(np.asarray(draw(rng, name, tuple(tensor.shape)))))
    model.eval()


def pixels(size: tuple[int, int]) -> np.ndarray:
    """Return a normalised image, B H W C."""
    return np.random.default_rng(1).standard_normal((1, *size, 3)).astype(np.float32)


def first(images: np.ndarray):
    """Return images as torch has them, B C H W."""
    import torch

    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def of_timm(architecture: str, **arguments) -> Callable[[Path], Made]:
    """Return what makes a model of timm, with a classifier of five classes."""

    def make(folder: Path) -> Made:
        import timm
        import torch
        from timm.models import save_for_hf

        model = timm.create_model(architecture, num_classes=5, **arguments)
        randomise(model)
        save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
        images = pixels(model.pretrained_cfg["input_size"][1:])
        with torch.no_grad():
            tokens = model.forward_features(first(images))
            return images, model.forward_head(tokens, pre_logits=True).numpy()

    return make


def of_transformers(name: str) -> Callable[[Path], Made]:
    """Return what makes a ViT of transformers."""

    def make(folder: Path) -> Made:
        from tests.zoo.loading import recorded
        from tests.zoo.make_transformers import FULL, record

        record(name, FULL[name], folder, full=True)
        case = recorded(folder)
        return case["images"], case["features"]

    return make


def of_stages(name: str, size: int, **arguments) -> Callable[[Path], Made]:
    """Return what makes a network of several stages of transformers."""

    def make(folder: Path) -> Made:
        from tests.zoo import make_conv

        model, save = make_conv.hub_model(name, **arguments)(folder)
        randomise(model)
        save()
        images = pixels((size, size))
        return images, make_conv.record(model, images)["features"]

    return make


def of_torchvision(name: str, size: int = 224) -> Callable[[Path], Made]:
    """Return what makes a model of torchvision."""

    def make(folder: Path) -> Made:
        import torch
        import torchvision

        from tests.zoo import make_conv

        model = getattr(torchvision.models, name)(num_classes=make_conv.CLASSES)
        randomise(model)
        torch.save(model.state_dict(), folder / "model.pth")
        images = pixels((size, size))
        return images, make_conv.record(model, images)["features"]

    return make


def of_open_clip(name: str) -> Callable[[Path], Made]:
    """Return what makes a CLIP of open_clip; its text tower has one layer, to save time."""

    def make(folder: Path) -> Made:
        import open_clip
        import safetensors.torch
        import torch
        from open_clip.push_to_hf_hub import save_config_for_hf

        from tests.zoo.make_clip import open_clip_model

        config = open_clip.get_model_config(name)
        config["text_cfg"] |= {"layers": 1, "vocab_size": 64}
        model = open_clip_model(config)
        randomise(model)
        model.visual.image_mean, model.visual.image_std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        safetensors.torch.save_file(model.state_dict(), folder / "open_clip_model.safetensors")
        save_config_for_hf(model, folder / "open_clip_config.json", config)
        images = pixels((config["vision_cfg"]["image_size"],) * 2)
        with torch.no_grad():
            return images, model.encode_image(first(images)).numpy()

    return make


def of_clip(folder: Path) -> Made:
    """Make a CLIP of transformers, B/32."""
    import torch
    import transformers as t

    model = t.CLIPVisionModelWithProjection(t.CLIPVisionConfig())
    randomise(model)
    model.save_pretrained(folder)
    images = pixels((224, 224))
    with torch.no_grad():
        return images, model(pixel_values=first(images)).image_embeds.numpy()


def of_google(architecture: str) -> Callable[[Path], Made]:
    """Return what makes a file of Google's ViT; timm reads the same."""

    def make(folder: Path) -> Made:
        import timm
        import torch

        from tests.zoo.make_big_vision import vision_transformer

        model = timm.create_model(architecture, num_classes=0)
        randomise(model)
        arrays = {n: v.numpy() for n, v in model.state_dict().items()}
        file = folder / "model.npz"
        np.savez(file, **vision_transformer(arrays, model.blocks[0].attn.num_heads))
        again = timm.create_model(architecture, num_classes=0).eval()
        again.load_pretrained(str(file))
        images = pixels(model.patch_embed.img_size)
        with torch.no_grad():
            return images, again(first(images)).numpy()

    return make


def of_big_vision(folder: Path) -> Made:
    """Make a file of big_vision's SigLIP, B/16; timm reads the same."""
    import timm
    import torch
    import transformers as t

    from tests.zoo.make_big_vision import big_vision

    model = t.SiglipVisionModel(t.SiglipVisionConfig())
    randomise(model)
    arrays = {n.removeprefix("vision_model."): v.numpy() for n, v in model.state_dict().items()}
    named = {f"params/img/{n}": v for n, v in big_vision(arrays, depth=12, heads=12).items()}
    np.savez(folder / "model.npz", **named)
    # big_vision has GELU's approximation by tanh, and so have the files; timm's own SigLIP has not.
    again = timm.create_model("vit_base_patch16_siglip_224", act_layer="gelu_tanh").eval()
    again.load_pretrained(str(folder / "model.npz"))
    images = pixels((224, 224))
    with torch.no_grad():
        return images, again(first(images)).numpy()


# Names are those of the small recorded cases, which share a row of docs/backbones.md with them.
MODELS = {
    "timm_vit": Full("B/16, 224 px", of_timm("vit_base_patch16_224")),
    "timm_clip_quickgelu": Full("B/16, 224 px", of_timm("vit_base_patch16_clip_quickgelu_224")),
    "timm_clip": Full("B/16, 224 px", of_timm("vit_base_patch16_clip_224")),
    "timm_siglip": Full("B/16, 224 px", of_timm("vit_base_patch16_siglip_224")),
    "timm_siglip2": Full("So400m/16, 256 px", of_timm("vit_so400m_patch16_siglip_256")),
    "timm_siglip_gap": Full("B/16, 224 px", of_timm("vit_base_patch16_siglip_gap_224")),
    "timm_reg4_gap": Full("B/16, 256 px", of_timm("vit_base_patch16_reg4_gap_256")),
    "timm_medium_gap": Full("M/16, 256 px", of_timm("vit_medium_patch16_gap_256")),
    "timm_miil": Full("B/16, 224 px", of_timm("vit_base_patch16_224_miil")),
    "timm_dino": Full("S/8, 224 px", of_timm("vit_small_patch8_224")),
    "timm_deit": Full("S/16, 224 px", of_timm("deit_small_patch16_224")),
    "timm_deit_distilled": Full("B/16, 224 px", of_timm("deit_base_distilled_patch16_224")),
    "timm_deit3": Full("B/16, 224 px", of_timm("deit3_base_patch16_224")),
    "timm_dinov2": Full("S/14, 518 px", of_timm("vit_small_patch14_dinov2")),
    "timm_dinov2_reg4": Full("B/14, 518 px", of_timm("vit_base_patch14_reg4_dinov2")),
    "timm_dinov3": Full("B/16, 256 px", of_timm("vit_base_patch16_dinov3")),
    "timm_dinov3_plus": Full("S+/16, 256 px", of_timm("vit_small_plus_patch16_dinov3_qkvb")),
    "timm_beit": Full("B/16, 224 px", of_timm("beit_base_patch16_224")),
    "timm_beitv2": Full("B/16, 224 px", of_timm("beitv2_base_patch16_224")),
    "timm_eva02_small": Full("S/14, 224 px", of_timm("eva02_small_patch14_224")),
    "timm_eva02_base": Full("B/14, 448 px", of_timm("eva02_base_patch14_448")),
    "timm_eva02_clip": Full("B/16, 224 px", of_timm("eva02_base_patch16_clip_224")),
    "timm_flexivit": Full("B/16, 240 px", of_timm("flexivit_base")),
    "timm_rope_reg1_gap": Full("M/16, 256 px", of_timm("vit_medium_patch16_rope_reg1_gap_256")),
    "timm_so150m_map": Full("So150m/16, 256 px", of_timm("vit_so150m_patch16_reg4_map_256")),
    "timm_swin": Full("T, 224 px", of_timm("swin_tiny_patch4_window7_224")),
    "timm_swin_s3": Full("T, 224 px", of_timm("swin_s3_tiny_224")),
    "timm_swinv2": Full("B, 256 px", of_timm("swinv2_base_window12to16_192to256")),
    "timm_convnext": Full("B, 224 px", of_timm("convnext_base")),
    "timm_convnext_hnf": Full("T, 224 px", of_timm("convnext_tiny_hnf")),
    "timm_convnext_mlp": Full("L, 256 px", of_timm("convnext_large_mlp")),
    "timm_convnextv2": Full("B, 224 px", of_timm("convnextv2_base")),
    "timm_resnet50": Full("50, 224 px", of_timm("resnet50")),
    "timm_resnext": Full("50, 32x4d", of_timm("resnext50_32x4d")),
    "timm_bit": Full("50x1, 448 px", of_timm("resnetv2_50x1_bit")),
    "timm_hybrid": Full("R50+B/16, 384 px", of_timm("vit_base_r50_s16_384")),
    "transformers_vit": Full("B/16, 224 px", of_transformers("vit")),
    "transformers_deit": Full("B/16, 224 px", of_transformers("deit")),
    "transformers_vit_mae": Full("B/16, 224 px", of_transformers("vit_mae")),
    "transformers_beit": Full("B/16, 224 px", of_transformers("beit")),
    "transformers_data2vec": Full("B/16, 224 px", of_transformers("data2vec")),
    "transformers_dinov2": Full("S/14, 224 px", of_transformers("dinov2")),
    "transformers_dinov2_swiglu": Full("S/14, 4 registers", of_transformers("dinov2_registers")),
    "transformers_dinov3": Full("S/16, 4 registers", of_transformers("dinov3")),
    "transformers_siglip": Full("B/16, 224 px", of_transformers("siglip")),
    "transformers_siglip2_naflex": Full("B/16, 256 patches", of_transformers("siglip2_naflex")),
    "hf_swin": Full("T, 224 px", of_stages("SwinForImageClassification", 224)),
    "hf_swinv2": Full("T, 224 px", of_stages("Swinv2ForImageClassification", 224, window_size=7)),
    "hf_convnext": Full("T, 224 px", of_stages("ConvNextForImageClassification", 224)),
    "hf_convnextv2": Full("T, 224 px", of_stages("ConvNextV2ForImageClassification", 224)),
    "hf_resnet": Full("50, 224 px", of_stages("ResNetForImageClassification", 224)),
    "hf_bit": Full("50x1, 224 px", of_stages("BitForImageClassification", 224)),
    "torchvision_vit": Full("B/16, 224 px", of_torchvision("vit_b_16"), {"heads": 12}),
    "tv_swin": Full("T, 224 px", of_torchvision("swin_t")),
    "tv_swinv2": Full(
        "T, 256 px",
        of_torchvision("swin_v2_t", 256),
        {"image_size": 256, "window": 8, "pretrained_windows": 0},
    ),
    "tv_convnext": Full("T, 224 px", of_torchvision("convnext_tiny")),
    "clip_hub_vision_projection": Full("B/32, 224 px", of_clip),
    "clip_open_quick_gelu": Full("B/32, 224 px", of_open_clip("ViT-B-32-quickgelu")),
    "clip_open_gelu": Full("H/14, 224 px", of_open_clip("ViT-H-14")),
    "clip_open_all": Full("g/14, 224 px", of_open_clip("ViT-g-14")),
    "clip_open_timm_vision": Full("EVA02-L-14, 224 px", of_open_clip("EVA02-L-14")),
    "big_vision_siglip": Full("B/16, 224 px", of_big_vision),
    "google_vit": Full("B/16, 224 px", of_google("vit_base_patch16_224")),
}


def compared(name: str, folder: Path) -> float:
    """Return the largest difference of a model's features, as a part of the largest feature."""
    images, features = MODELS[name].make(folder)
    weights = next(
        p for p in sorted(folder.iterdir()) if p.suffix in (".safetensors", ".pth", ".npz")
    )
    backbone = vpjax.load_backbone(str(weights), **MODELS[name].said)
    return difference(features_of(backbone, images), features)


def main(names: list[str]) -> None:
    """Compare models, all or those named, and write what was found."""
    for name in names or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            found = compared(name, Path(folder))
        print(f"{name:30} {MODELS[name].size:20} {found:.1e}", flush=True)
        results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        results[name] = {"size": MODELS[name].size, "difference": float(f"{found:.1e}")}
        RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
