"""The Python API: backbones, models, training on arrays, runs in use."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import vpjax
from tests.helpers.runs import HOME, config
from vpjax.backbones.vit import ViT
from vpjax.data import PRESETS, open_source
from vpjax.methods.base import Method

QUICK = {"steps": 3, "batch_size": 8}


@pytest.fixture(scope="module")
def digits():
    """Images (n 8 8 1) and labels of the digits 5 to 9."""
    source = open_source("digits/high", "train[:60]")
    examples = source.__getitems__(range(60))
    return np.stack([e["image"] for e in examples]), np.array([e["label"] for e in examples])


@pytest.fixture(scope="module")
def backbone():
    return vpjax.load_backbone("digits_vit")


@pytest.fixture(scope="module")
def run(digits, backbone, tmp_path_factory):
    images, labels = digits
    model = vpjax.create_model(backbone, "vpt.VPT", num_tokens=4, num_classes=5)
    data = {"train": (images[:40], labels[:40]), "val": (images[40:], labels[40:])}
    return vpjax.fit(model, **data, workdir=tmp_path_factory.mktemp("run") / "mine", **QUICK)


class Shallow(Method):
    """Somebody's own method, as the README has it."""

    def __init__(self, backbone, num_classes, *, num_tokens: int = 8, rngs):
        super().__init__(backbone, num_classes, rngs=rngs)
        shape = (num_tokens, backbone.sites[0].dim)
        self.prompts = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))

    def start(self, backbone, images, ctx):
        tokens = super().start(backbone, images, ctx)
        return tokens.insert(self.prompts[...], at=tokens.num_prefix_tokens)


class MyNet(ViT):
    """Somebody's own backbone."""

    def __init__(self, image_size: int = 8, *, rngs):
        super().__init__("Ti/4", image_size, dim=16, heads=2, depth=1, mlp_dim=16, rngs=rngs)


def test_lists_name_what_there_is():
    assert "digits_vit" in vpjax.list_weights() and "swin_b_in22k" in vpjax.list_weights(
        "swin.Swin"
    )
    assert {"vit.ViT", "swin.Swin", "clip.CLIP"} <= set(vpjax.list_backbones())
    assert {"vpt.VPT", "finetune.Linear", "sa2vp.SA2VP"} <= set(vpjax.list_methods())
    assert not any("HiddenLayer" in n or "PromptMap" in n for n in vpjax.list_methods())
    assert vpjax.options_of("vpt.VPT")["num_tokens"] == 50


def test_a_backbone_brings_its_preprocessing(backbone, digits):
    images = digits[0][:4]
    features = backbone(images)
    assert features.shape == (4, backbone.dim) and features.dtype == jnp.float32
    np.testing.assert_array_equal(backbone(backbone.preprocess(images)), features)
    assert backbone.preprocess(images).min() >= -1 and backbone.preprocess(images).shape[-1] == 3
    large = [np.zeros((20, 30, 3), np.uint8), np.zeros((9, 8, 1), np.uint8)]
    assert backbone.preprocess(large).shape == (2, 8, 8, 3)
    with pytest.raises(vpjax.UserError, match="expected uint8 H W C"):
        backbone.preprocess([np.zeros((8, 8, 3))])
    assert "digits_vit, preset digits" in repr(backbone)


def test_backbones_that_are_not_there():
    with pytest.raises(vpjax.UserError, match="Did you mean 'digits_vit'"):
        vpjax.load_backbone("digit_vit")
    with pytest.raises(vpjax.UserError, match="needs weights"):
        vpjax.load_backbone("vit.ViT")
    with pytest.raises(vpjax.UserError, match="Did you mean 'image_size'"):
        vpjax.load_backbone("vit.ViT", "", imagesize=8)
    drawn = vpjax.load_backbone(
        "vit.ViT", "", variant="Ti/4", image_size=8, depth=1, dim=16, heads=2
    )
    with pytest.raises(vpjax.UserError, match="preset="):
        drawn(np.zeros((1, 8, 8, 3), np.uint8))


def test_a_model_says_what_trains(backbone, digits):
    model = vpjax.create_model(backbone, "vpt.VPT", num_tokens=8, num_classes=5)
    assert "trainable 1,781 of 79,205 (2.25 %)" in str(model)
    assert model(digits[0][:3])["logits"].shape == (3, 5)
    with pytest.raises(vpjax.UserError, match="Did you mean 'num_tokens'"):
        vpjax.create_model(backbone, "vpt.VPT", numtokens=8, num_classes=5)


def test_a_run_predicts_without_its_data(run, digits, tmp_path):
    images, labels = digits
    again = vpjax.load_run(run.folder)
    one, other = run.predict(images, batch_size=7), again.predict(list(images))
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
    assert one.probabilities.sum(-1) == pytest.approx(np.ones(60), abs=1e-5)
    assert one.class_names == tuple(run.classes[i] for i in one.labels)
    np.testing.assert_allclose(run.model(images)["logits"].argmax(-1), one.labels)
    for i in range(3):
        Image.fromarray(images[i, :, :, 0]).save(tmp_path / f"{i}.png")
    told = again.predict(tmp_path)
    np.testing.assert_array_equal(told.labels, one.labels[:3])
    assert [p.rpartition("/")[2] for p in told.paths] == ["0.png", "1.png", "2.png"]
    assert again.features(images[:5]).shape == (5, 48)
    found = again.evaluate((images[40:], labels[40:]))
    assert found["accuracy"] == pytest.approx(run.result["val_accuracy"])
    assert found["accuracy"] == pytest.approx(100 * (one.labels[40:] == labels[40:]).mean())
    assert "val accuracy" in repr(run) and "20 images" not in repr(told)


def test_fit_goes_on_and_refuses_another_run(run, digits, backbone):
    images, labels = digits
    model = vpjax.create_model(backbone, "vpt.VPT", num_tokens=4, num_classes=5)
    data = {"train": (images[:40], labels[:40]), "val": (images[40:], labels[40:])}
    before = (run.folder / "result.json").stat().st_mtime_ns
    vpjax.fit(model, **data, workdir=run.folder, **QUICK)
    assert (run.folder / "result.json").stat().st_mtime_ns == before
    with pytest.raises(vpjax.UserError, match="optim.lr"):
        vpjax.fit(model, **data, workdir=run.folder, lr=0.5, **QUICK)


def test_fit_refuses_what_does_not_fit(digits, backbone, tmp_path):
    images, labels = digits
    model = vpjax.create_model(backbone, "finetune.Linear", num_classes=4)
    with pytest.raises(vpjax.UserError, match="the model has 4 classes, .* 5"):
        vpjax.fit(model, train=(images, labels), workdir=tmp_path)
    with pytest.raises(vpjax.UserError, match="expected .images, labels"):
        vpjax.fit(model, train=images, workdir=tmp_path)
    with pytest.raises(vpjax.UserError, match="needs train="):
        vpjax.fit(model, workdir=tmp_path)
    with pytest.raises(vpjax.UserError, match="'epochs' is given beside a config"):
        vpjax.fit(config("linear"), epochs=3, workdir=tmp_path)


def test_a_config_and_a_data_set_by_name(tmp_path, backbone):
    run = vpjax.fit(config("linear"), workdir=tmp_path / "config")
    assert run.result["status"] == "finished"
    model = vpjax.create_model(backbone, "finetune.Linear", num_classes=5)
    run = vpjax.fit(model, "digits/high", train="train[:40]", workdir=tmp_path / "named", **QUICK)
    assert run.evaluate("digits/high", "test")["count"] == 167
    with pytest.raises(vpjax.UserError, match="the run has 5, 6, 7"):
        run.evaluate("digits/low", "test")


def test_several_classes_an_image(digits, backbone, tmp_path):
    images, labels = digits
    targets = np.eye(5, dtype=int)[labels] | np.eye(5, dtype=int)[(labels + 1) % 5]
    model = vpjax.create_model(backbone, "finetune.Linear", num_classes=5)
    changes = {"train": {"loss": "sigmoid"}}
    data = {"train": (images, targets), "val": (images, targets), "changes": changes}
    run = vpjax.fit(model, **data, workdir=tmp_path, **QUICK)
    assert run.result["metric"] == "map" and "val_accuracy" not in run.result
    assert run.evaluate((images, targets))["map"] == pytest.approx(run.result["val_map"])
    assert run.predict(images).probabilities.max() < 1


def test_ones_own_method_and_backbone(digits, tmp_path):
    images, labels = digits
    backbone = vpjax.load_backbone(MyNet, "", preset="digits", seed=3)
    model = vpjax.create_model(backbone, Shallow, num_classes=5, num_tokens=2, seed=3)
    run = vpjax.fit(model, train=(images, labels), workdir=tmp_path / "named", seed=3, **QUICK)
    again = vpjax.load_run(tmp_path / "named")
    np.testing.assert_allclose(
        again.predict(images).probabilities, run.predict(images).probabilities, atol=1e-5
    )
    by_hand = MyNet(rngs=nnx.Rngs(7))
    by_hand.preset = "digits"
    model = vpjax.create_model(by_hand, Shallow, num_classes=5)
    run = vpjax.fit(model, train=(images, labels), workdir=tmp_path / "hand", **QUICK)
    with pytest.raises(vpjax.UserError, match="backbone=..."):
        vpjax.load_run(tmp_path / "hand")
    again = vpjax.load_run(tmp_path / "hand", backbone=by_hand)
    np.testing.assert_array_equal(again.predict(images).labels, run.predict(images).labels)
    with pytest.raises(vpjax.UserError, match="frozen weights, sha256"):
        vpjax.load_run(tmp_path / "hand", backbone=_preset(MyNet(rngs=nnx.Rngs(8))))


def _preset(backbone):
    backbone.preset = "digits"
    return backbone


def test_a_drawn_backbone_needs_the_seed_of_its_run(digits, tmp_path):
    backbone = vpjax.load_backbone(MyNet, "", preset="digits", seed=3)
    model = vpjax.create_model(backbone, "finetune.Linear", num_classes=5)
    with pytest.raises(vpjax.UserError, match="seed=3"):
        vpjax.fit(model, train=digits, workdir=tmp_path, **QUICK)


def test_importing_vpjax_imports_little():
    code = "import sys, vpjax; print('jax' in sys.modules, sorted(dir(vpjax)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOME)
    assert done.stdout.startswith("False") and "load_run" in done.stdout


def test_the_examples_of_the_page_run(tmp_path, monkeypatch):
    """Those that need no file of their own, one after the other in one namespace."""
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    text = (HOME / "docs" / "api.md").read_text()
    blocks = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "photos" not in b]
    assert len(blocks) >= 4
    names = {}
    for block in blocks:
        exec(compile(block, "api.md", "exec"), names)


def test_preprocessing_by_its_fields(tmp_path, digits):
    fields = "bicubic,crop=0.8,mean=0.25,std=0.5"
    backbone = vpjax.load_backbone("digits_vit", preset=f" {fields}".replace(",", ", "))
    assert backbone.preset == fields and f"preset {fields}" in repr(backbone)
    assert vpjax.load_backbone("digits_vit", preset=PRESETS["inception"]).preset == "inception"
    with pytest.raises(vpjax.UserError, match="crop=2 is no share"):
        vpjax.load_backbone("digits_vit", preset="imagenet,crop=2")
    model = vpjax.create_model(backbone, "finetune.Linear", num_classes=5)
    images, labels = digits
    data = {"train": (images[:40], labels[:40]), "val": (images[40:], labels[40:])}
    run = vpjax.fit(model, **data, workdir=tmp_path / "run", **QUICK)
    again = vpjax.load_run(run.folder)
    assert run.result["preset"] == again.model.backbone.preset == fields
    one, other = run.predict(images), again.predict(images)
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-6)
