"""Small networks of several stages as their libraries save them, with what they compute.

    python tests/zoo/make_conv.py            writes tests/zoo/data/NAME/ for every case here
    python tests/zoo/make_conv.py NAME ...   these only

needs torch, timm, transformers and torchvision, not vpjax. Every parameter and running average is
random, so that nothing is 0 or 1. A folder holds the weights (half precision, which the numbers
have exactly) and the configuration, and `recorded.npz`: images (small whole numbers, B H W C), the
features that the head reads, logits, and the same at another image size.
"""

import functools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import safetensors.torch
import timm
import torch
import torchvision
import transformers
from timm.layers import StdConv2dSame
from timm.models import resnetv2, save_for_hf, vision_transformer_hybrid

HERE = Path(__file__).parent / "data"
CLASSES = 5
SWIN = {"embed_dim": 8, "depths": (2, 1), "num_heads": (2, 4)}
TIMM_NEXT = {"depths": (1, 2, 1, 1), "dims": (8, 8, 12, 16)}
NEXT = {"hidden_sizes": [8, 16, 24], "depths": [1, 2, 1], "num_stages": 3}
RES = {"channels": (4, 4, 8, 8), "layers": (1, 2, 1, 1)}
TV_SWIN = {"patch_size": [4, 4], "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4]}
TV_SWIN |= {"window_size": [4, 4], "num_classes": CLASSES}


def timm_model(architecture, create=None, **arguments):
    create = functools.partial(create or timm.create_model, architecture)

    def make(folder, size=None):
        sized = {"img_size": size} if size and "img_size" in arguments else {}
        model = create(num_classes=CLASSES, **(arguments | sized))
        save = lambda: save_for_hf(model, folder, model_args=arguments, safe_serialization=True)  # noqa: E731
        return model, save

    return make


def hub_model(name, **arguments):
    def make(folder, size=None):
        sized = {"image_size": list(size)} if size and "image_size" in arguments else {}
        config = getattr(transformers, f"{name.partition('For')[0].removesuffix('Model')}Config")
        config = config(num_labels=CLASSES, **(arguments | sized))
        model = getattr(transformers, name)(config)
        return model, lambda: model.save_pretrained(folder)

    return make


def hybrid_model(architecture, **arguments):
    """A timm hybrid, whose ResNet no argument makes small."""

    def make(folder, size=None):
        sized = {"img_size": size} if size else {}
        convolution = functools.partial(StdConv2dSame, eps=1e-8)
        root = resnetv2.ResNetV2(
            **{"layers": (1,), "channels": (128,), "stem_chs": 32, "stem_type": "same"},
            **{"preact": False, "num_classes": 0, "global_pool": "", "conv_layer": convolution},
        )
        model = vision_transformer_hybrid._create_vision_transformer_hybrid(
            architecture, backbone=root, num_classes=CLASSES, **(arguments | sized)
        )
        save = lambda: save_for_hf(model, folder, model_args=arguments, safe_serialization=True)  # noqa: E731
        return model, save

    return make


def torchvision_model(build):
    def make(folder, size=None):
        model = build()
        return model, lambda: torch.save(model.state_dict(), folder / "model.pth")

    return make


def torchvision_swin(second):
    parts = torchvision.models.swin_transformer
    if second:
        own = {"block": parts.SwinTransformerBlockV2, "downsample_layer": parts.PatchMergingV2}
    else:
        own = {}
    return torchvision.models.SwinTransformer(**TV_SWIN, **own)


def torchvision_convnext():
    stage = torchvision.models.convnext.CNBlockConfig
    stages = [stage(8, 16, 1), stage(16, 24, 2), stage(24, None, 1)]
    return torchvision.models.ConvNeXt(stages, num_classes=CLASSES)


# name: maker, size of images, another size or None
CASES = {
    "timm_swin": (
        timm_model(
            "swin_tiny_patch4_window7_224",
            img_size=32,
            window_size=4,
            dynamic_img_size=True,
            **SWIN,
        ),
        (32, 32),
        (64, 96),
    ),
    "timm_swin_s3": (
        timm_model(
            "swin_s3_tiny_224",
            **{"img_size": 32, "window_size": (2, 4, 2), "mlp_ratio": 2},
            **{"embed_dim": 8, "depths": (1, 2, 1), "num_heads": (1, 2, 2)},
        ),
        (32, 32),
        None,
    ),
    "hf_swin": (
        hub_model(
            "SwinForImageClassification", image_size=32, window_size=4, layer_norm_eps=1e-3, **SWIN
        ),
        (32, 32),
        (64, 96),
    ),
    "hf_swin_positions": (
        hub_model(
            "SwinModel",
            **{"image_size": 32, "window_size": 4, "use_absolute_embeddings": True},
            **{"qkv_bias": False, "hidden_act": "quick_gelu", "mlp_ratio": 2.0},
            **SWIN,
        ),
        (32, 32),
        None,
    ),
    "tv_swin": (torchvision_model(lambda: torchvision_swin(False)), (32, 32), (64, 96)),
    "timm_swinv2": (
        timm_model(
            "swinv2_base_window12to16_192to256",
            **{"img_size": 32, "window_size": 4, "pretrained_window_sizes": (3, 2)},
            **SWIN,
        ),
        (32, 32),
        (64, 96),
    ),
    "hf_swinv2": (
        hub_model(
            "Swinv2ForImageClassification",
            **{"image_size": 32, "window_size": 4, "pretrained_window_sizes": [0, 3]},
            **SWIN,
        ),
        (32, 32),
        (64, 96),
    ),
    "tv_swinv2": (torchvision_model(lambda: torchvision_swin(True)), (32, 32), (64, 96)),
    "timm_convnext": (timm_model("convnext_atto", **TIMM_NEXT), (32, 32), (64, 52)),
    "timm_convnext_hnf": (timm_model("convnext_tiny_hnf", **TIMM_NEXT), (32, 32), None),
    "timm_convnext_mlp": (
        timm_model("convnext_large_mlp", norm_eps=1e-3, head_hidden_size=20, **TIMM_NEXT),
        (32, 32),
        None,
    ),
    "timm_convnextv2": (timm_model("convnextv2_tiny", **TIMM_NEXT), (32, 32), (64, 52)),
    "hf_convnext": (
        hub_model("ConvNextForImageClassification", layer_norm_eps=1e-2, **NEXT),
        (32, 32),
        (48, 64),
    ),
    "hf_convnextv2": (hub_model("ConvNextV2ForImageClassification", **NEXT), (32, 32), (48, 64)),
    "tv_convnext": (torchvision_model(torchvision_convnext), (32, 32), (48, 64)),
    "timm_resnet50": (timm_model("resnet50", **RES), (32, 32), (50, 70)),
    "timm_resnext": (
        timm_model("resnext50_32x4d", cardinality=2, base_width=32, **RES),
        (32, 32),
        None,
    ),
    "hf_resnet": (
        hub_model(
            "ResNetForImageClassification",
            **{"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 1]},
            **{"downsample_in_first_stage": True, "downsample_in_bottleneck": True},
        ),
        (32, 32),
        (50, 70),
    ),
    "hf_resnet_basic": (
        hub_model(
            "ResNetModel",
            **{"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]},
            layer_type="basic",
        ),
        (32, 32),
        None,
    ),
    "timm_bit": (
        timm_model(
            "resnetv2_50x1_bit",
            resnetv2._create_resnetv2_bit,
            **{"channels": (128,), "layers": (1,), "stem_chs": 32},
        ),
        (32, 32),
        (50, 70),
    ),
    "hf_bit": (
        hub_model(
            "BitForImageClassification",
            **{"embedding_size": 8, "hidden_sizes": [32, 64], "depths": [2, 1], "num_groups": 4},
        ),
        (32, 32),
        (50, 70),
    ),
    "timm_hybrid": (
        hybrid_model(
            "vit_base_r50_s16_224",
            **{"img_size": (32, 32), "embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2},
        ),
        (32, 32),
        None,
    ),
}


def randomise(model, seed):
    """Draw every number of a model, exact in half precision."""
    random = np.random.default_rng(seed)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    with torch.no_grad():
        for name, tensor in tensors:
            if not tensor.is_floating_point() or name.endswith(("coords_table", "attn_mask")):
                continue
            if name.endswith("k_bias"):
                continue
            tensor.copy_(torch.from_numpy(draw(random, name, tuple(tensor.shape))))


def draw(random, name, shape):
    normal = random.standard_normal(shape)
    leaf = name.rpartition(".")[2]
    if leaf == "running_var":
        value = random.uniform(0.5, 1.5, shape)
    elif leaf == "logit_scale":
        value = random.uniform(1, 3, shape)
    elif len(shape) < 2 and leaf == "weight" or "grn.weight" in name:
        value = 1 + 0.3 * normal
    elif leaf in ("relative_position_bias_table", "position_embeddings"):
        value = normal
    elif len(shape) < 2 or "grn" in name or leaf == "layer_scale":
        value = 0.3 * normal
    else:
        value = normal / np.sqrt(np.prod(shape[1:]))
    return value.astype(np.float16).astype(np.float32)


def images_of(count, size, seed):
    """Return images of four different numbers, which take little space."""
    return np.random.default_rng(seed).integers(-2, 2, (count, *size, 3), np.int8)


def record(model, images):
    """Return what the head reads, and logits."""
    seen, head = {}, None
    for module in model.modules():
        # BiT's is a convolution over one pixel.
        if getattr(module, "out_features", getattr(module, "out_channels", 0)) == CLASSES:
            head = module
    if head is not None:
        head.register_forward_pre_hook(lambda _, x: seen.update(features=x[0]))
    with torch.no_grad():
        out = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float())
    if head is None:
        return {"features": out.pooler_output.reshape(len(images), -1).numpy()}
    logits = out if isinstance(out, torch.Tensor) else out.logits
    return {"features": seen["features"].reshape(len(images), -1).numpy(), "logits": logits.numpy()}


def halve(folder):
    """Store weights in half precision, which they have exactly."""
    half = lambda t: t.half() if t.is_floating_point() else t  # noqa: E731
    for path in folder.glob("*.safetensors"):
        tensors = safetensors.torch.load_file(path)
        safetensors.torch.save_file({n: half(t) for n, t in tensors.items()}, path)
    for path in folder.glob("*.pth"):
        torch.save({n: half(t) for n, t in torch.load(path).items()}, path)


def write(name):
    make, size, other = CASES[name]
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model, save = make(folder)
    seed = sum(name.encode())
    randomise(model, seed)
    model.eval()
    save()
    halve(folder)
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors", "model.pth"):
            path.unlink()
    images = images_of(2, size, seed)
    recorded = {"images": images, **record(model, images)}
    if other:
        # Swin decides where windows are shifted when it is built.
        resized, _ = make(folder, other)
        resized.load_state_dict(model.state_dict())
        resized.eval()
        images = images_of(1, other, seed)
        recorded |= {"other_images": images}
        recorded |= {f"other_{n}": v for n, v in record(resized, images).items()}
    np.savez_compressed(folder / "recorded.npz", **recorded)
    config = folder / "config.json"
    if config.exists():
        config.write_text(json.dumps(json.loads(config.read_text()), indent=1) + "\n")
    total = sum(p.stat().st_size for p in folder.iterdir())
    print(f"{name:24} {total:8,} bytes, features {np.abs(recorded['features']).max():.3f}")


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)
    for case in sys.argv[1:] or CASES:
        write(case)
