"""Runs as models of timm and transformers: every recorded model of them, tuned and written.

Where torch and the library are, the library computes what was written; else vpjax reads it back.
"""

import importlib.util
import json

import numpy as np
import pytest

import vpjax
from tests.helpers.made_runs import VIT, run_of, run_on
from tests.zoo.loading import DATA
from vpjax.core.errors import UserError
from vpjax.runs.export_weights import CLASSIFIERS, export_weights

LIBRARIES = {"timm": "timm", "transformers": "transformers", "hf": "transformers"}
# What is refused, and what is said.
REFUSED = {
    "timm_bit": "does not take|no place",  # timm refuses the arguments in this configuration
    "timm_hybrid": "does not take",  # its configuration does not say the sizes of its stages
    "transformers_beit_masked": "no place",  # all layers share a table, and training parts them
    "transformers_beit_shared": "no place",
    "timm_deit_distilled": "head/bias has no place",  # two heads
}


def cases():
    folders = sorted(f for f in DATA.iterdir() if (f / "config.json").is_file())
    return [f.name for f in folders if f.name.partition("_")[0] in LIBRARIES]


def tuned(folder):
    backbone = vpjax.load_backbone(str(DATA / folder), preset="imagenet")
    return run_on(backbone, DATA / folder)


def from_scratch(name, options, method="finetune.Full", **more):
    run, _ = run_of(name, options, method, **more)
    run.config.backbone.weights = ""
    return run


def check_how(how, library):
    there = all(importlib.util.find_spec(name) for name in ("torch", library))
    assert how.startswith(f"; computed by {library}" if there else "; read back here")


@pytest.mark.parametrize("folder", cases())
def test_a_tuned_model_of_a_library_is_one_again(folder, tmp_path):
    library = LIBRARIES[folder.partition("_")[0]]
    says = REFUSED.get(folder, "")
    if "does not take" in says and not importlib.util.find_spec("timm"):
        pytest.skip("timm itself refuses this, and is not installed")
    kind = json.loads((DATA / folder / "config.json").read_text()).get("model_type")
    if library == "transformers" and kind not in CLASSIFIERS:
        says = "have no classifier"
    if says:
        with pytest.raises(UserError, match=says):
            export_weights(tuned(folder), tmp_path / "model", library)
        return
    differ, how = export_weights(tuned(folder), tmp_path / "model", library)
    assert differ < 1e-5
    check_how(how, library)
    said = json.loads((tmp_path / "model" / "config.json").read_text())
    assert list("abc") == (said.get("label_names") or list(said["id2label"].values()))


@pytest.mark.parametrize("preset", ["inception", "bicubic,crop=0.5,mean=0.5,std=0.5"])
@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_plain_vit_from_elsewhere_gets_a_library_s_names(library, preset, tmp_path):
    run = from_scratch("vit.ViT", VIT, preset=preset)
    differ, how = export_weights(run, tmp_path / "model", library)
    assert differ < 1e-5
    check_how(how, library)
    again = vpjax.load_backbone(str(tmp_path / "model"))
    found, meant = vpjax.data.preset(again.preset), vpjax.data.preset(preset)
    # Where a crop begins if pixels are left over is the library's.
    for field in ("mean", "std", "resize", "rule"):
        assert getattr(found, field) == getattr(meant, field)


@pytest.mark.parametrize(
    ("name", "options", "method", "says"),
    [
        ("vit.ViT", VIT, "vpt.VPT", "VPT cannot be folded .* --format stablehlo"),
        ("vit.ViT", VIT, "adapter.Adapter", "Adapter cannot be folded .* activation inside"),
        ("vit.ViT", VIT | {"rope": "eva"}, "finetune.Full", "rope='eva'"),
        ("vit.ViT", VIT | {"layer_scale": True}, "finetune.Linear", "layer_scale=True"),
        ("cnn.CNN", {"image_size": 16}, "finetune.Full", "only plain ViTs"),
    ],
)
def test_what_a_library_does_not_have_is_refused(name, options, method, says, tmp_path):
    run = from_scratch(name, options, method)
    with pytest.raises(UserError, match=says):
        export_weights(run, tmp_path / "model", "timm")
    assert not list(tmp_path.iterdir())


def test_a_model_that_computes_something_else_is_not_left(tmp_path, monkeypatch):
    from vpjax.runs import export_weights as module

    run = from_scratch("vit.ViT", VIT)
    monkeypatch.setattr(module, "read_back", lambda *_: np.ones((4, 3), np.float32))
    with pytest.raises(UserError, match="computes something else than the run"):
        export_weights(run, tmp_path / "model", "timm")
    assert not list(tmp_path.iterdir())
