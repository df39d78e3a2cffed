"""What `export` writes: every family comes back with the same features, or is refused."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import vpjax
from vpjax.core.errors import UserError
from vpjax.models.partition import merge, partition
from vpjax.runs import export
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


def run_of(name, options, method="finetune.Full", **more):
    """A run whose model has random numbers everywhere, running averages included."""
    backbone = vpjax.load_backbone(name, "", preset="imagenet", **options)
    parts = partition(vpjax.create_model(backbone, method, num_classes=3, **more))
    random = np.random.default_rng(0)
    draw = lambda part: {n: random.uniform(0.1, 0.5, v.shape) for n, v in part.items()}  # noqa: E731
    new = lambda part: {n: np.float32(v) for n, v in draw(part).items()}  # noqa: E731
    parts = parts._replace(trainable=new(parts.trainable), stats=new(parts.stats))
    run = Run.__new__(Run)
    run.folder = "runs/mine"
    run.config = ConfigDict(
        {"backbone": {"name": name, "weights": "first.npz"}, "method": {"name": method}}
    )
    run._built = types.SimpleNamespace(parts=parts)
    run._state = types.SimpleNamespace(trainable=parts.trainable, stats=parts.stats)
    return run, merge(parts.graph, parts.trainable, parts.stats, parts.frozen)


def exported(monkeypatch, run, target):
    monkeypatch.setattr(export, "load_run", lambda folder: run)
    return export.export_run(target.parent, target)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_backbone_comes_back(monkeypatch, tmp_path, family):
    name, options = FAMILIES[family]
    run, model = run_of(name, options)
    file = exported(monkeypatch, run, tmp_path / "mine.safetensors")
    back = vpjax.load_backbone(name, str(file), **options)
    size = back.image_size
    images = jax.random.normal(jax.random.key(0), (2, *size, 3))
    call = jax.jit(lambda backbone, x: backbone(x), static_argnums=())
    ours, theirs = (np.asarray(call(b, images)) for b in (back, model.backbone))
    np.testing.assert_array_equal(ours, theirs)
    assert np.ptp(ours) > 0.01
    if back.batch_norm:
        assert jnp.abs(back.patch_norm.mean[...]).min() > 0.05


@pytest.mark.parametrize("method", ["vpt.VPT", "finetune.Linear", "adapter.Adapter"])
def test_a_backbone_that_has_not_changed_is_not_written(monkeypatch, tmp_path, method):
    run, _ = run_of("vit.ViT", VIT, method)
    with pytest.raises(UserError, match=r"trained nothing of its backbone.* still first\.npz"):
        exported(monkeypatch, run, tmp_path / "mine.npz")
    assert not list(tmp_path.iterdir())


def test_what_trained_beside_the_backbone_is_named(monkeypatch, tmp_path, caplog):
    run, _ = run_of("vit.ViT", VIT, "vpt.PromptBias", num_tokens=2)
    exported(monkeypatch, run, tmp_path / "mine.npz")
    assert (
        "the file has not what vpt.PromptBias trained beside the backbone (prompts)" in caplog.text
    )


@pytest.mark.parametrize("family", ["mae", "swin", "resnet"])
def test_google_s_names_are_for_plain_vits(monkeypatch, tmp_path, family):
    run, _ = run_of(*FAMILIES[family])
    with pytest.raises(UserError, match="Give a target that ends in"):
        exported(monkeypatch, run, tmp_path / "mine.npz")
