"""Runs with random numbers everywhere, made without training or files."""

import types

import numpy as np
from ml_collections import ConfigDict

import vpjax
from vpjax.models.partition import merge, partition
from vpjax.runs.run import Run

SWIN = {"image_size": 32, "window": 2, "embed_dim": 4, "depths": (2, 1), "heads": (1, 2)}
NEXT = {"image_size": 32, "dims": (4, 8), "depths": (1, 1)}
VIT = {"variant": "Ti/8", "image_size": 16, "dim": 8, "mlp_dim": 16, "heads": 2, "depth": 2}
FAMILIES = {
    "vit": ("vit.ViT", VIT),
    "mae": ("vit.MAE", VIT),
    "swin": ("swin.Swin", SWIN),
    "swin_v2": ("swin_v2.SwinV2", SWIN),
    "convnext": ("convnext.ConvNeXt", NEXT),
    "convnext_v2": ("convnext.ConvNeXt", NEXT | {"grn": True}),
    "resnet": ("resnet.ResNet", {"image_size": 32, "widths": (4, 8), "depths": (1, 1)}),
}


def run_of(name, options, method="finetune.Full", preset="imagenet", **more):
    """Return a run whose model has random numbers everywhere, running averages included; and it."""
    backbone = vpjax.load_backbone(name, "", preset=preset, **options)
    parts = partition(vpjax.create_model(backbone, method, num_classes=3, **more))
    random = np.random.default_rng(0)
    draw = lambda part: {n: random.uniform(0.1, 0.5, v.shape) for n, v in part.items()}  # noqa: E731
    new = lambda part: {n: np.float32(v) for n, v in draw(part).items()}  # noqa: E731
    parts = parts._replace(trainable=new(parts.trainable), stats=new(parts.stats))
    section = {"name": name, "weights": "first.npz", **options}
    run = made(parts, section, method, backbone)
    return run, merge(parts.graph, parts.trainable, parts.stats, parts.frozen)


def run_on(backbone, where, method="finetune.Full"):
    """Return a run on a backbone that was loaded from `where`, with other numbers in it."""
    parts = partition(vpjax.create_model(backbone, method, num_classes=3))
    random = np.random.default_rng(0)
    moved = {n: v + 0.02 * random.normal(size=v.shape) for n, v in parts.trainable.items()}
    parts = parts._replace(trainable={n: np.float32(v) for n, v in moved.items()})
    section = {"name": backbone.origin.spec.name, "weights": str(where)}
    return made(parts, section | backbone.origin.spec.completed(), method, backbone)


def made(parts, section, method, backbone):
    """Return a run of these parts."""
    run = Run.__new__(Run)
    run.folder, run.classes = "runs/mine", ("a", "b", "c")
    run.config = ConfigDict(
        {"backbone": section, "method": {"name": method}, "dtype": "float32", "seed": 0}
    )
    loaded = backbone.origin.loaded if backbone.origin else None
    size, preset = tuple(backbone.image_size), backbone.preset
    run._built = types.SimpleNamespace(parts=parts, preset=preset, image_size=size, loaded=loaded)
    run._state = types.SimpleNamespace(trainable=parts.trainable, stats=parts.stats)
    run._classes = types.SimpleNamespace(multilabel=False)
    return run
