"""Models of timm, small and random: the same features and logits as timm's. See make_timm.py."""

import json

import pytest

import vpjax
from tests.zoo.loading import DATA, TOLERANCE, difference, features_of, recorded
from vpjax.core.errors import UserError
from vpjax.models.factory import BackboneSpec, load_weights
from vpjax.weights import timm_models
from vpjax.weights.recognise import describe

CONFIGS = {p.parent.name: json.loads(p.read_text()) for p in DATA.glob("timm_*/config.json")}
FOLDERS = sorted(n for n, c in CONFIGS.items() if c["architecture"] in timm_models.BY_NAME)
TWO_HEADS = "timm_deit_distilled"
ARCHITECTURES = json.loads((DATA / "timm_architectures.json").read_text())


def backbone_of(folder, **options):
    return vpjax.load_backbone(str(DATA / folder), dropout=0.0, attention="xla", **options)


@pytest.mark.parametrize("folder", FOLDERS)
def test_features_and_logits_are_timm_s(folder):
    case, backbone = recorded(folder), backbone_of(folder)
    features = features_of(backbone, case["images"])
    assert difference(features, case["features"]) < TOLERANCE
    if "logits" in case and folder != TWO_HEADS:
        spec = BackboneSpec("vit.ViT", backbone.origin.spec.options, str(DATA / folder), "load")
        head = load_weights(backbone, spec).head
        logits = features @ head["kernel"] + head["bias"]
        assert difference(logits, case["logits"]) < TOLERANCE


@pytest.mark.parametrize("folder", FOLDERS)
def test_images_of_another_size(folder):
    case = recorded(folder)
    backbone = backbone_of(folder, image_size=case["other_images"].shape[1:3])
    features = features_of(backbone, case["other_images"])
    assert difference(features, case["other_features"]) < TOLERANCE


def test_a_distilled_classifier_has_two_heads():
    backbone = backbone_of(TWO_HEADS)
    spec = BackboneSpec("vit.ViT", backbone.origin.spec.options, str(DATA / TWO_HEADS), "load")
    with pytest.raises(UserError, match="mean of two heads"):
        load_weights(backbone, spec)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_architectures_are_right_or_refused(name):
    truth, config = ARCHITECTURES[name], {"architecture": name, "pretrained_cfg": {}}
    if isinstance(truth, str):  # why vpjax cannot have it
        with pytest.raises(UserError, match=f"unknown timm architecture.*'{name}'"):
            timm_models.options_of(config)
        return
    usual = {"pool": "token", "eps": 1e-6, "activation": "gelu", "rope": ""}
    found = timm_models.options_of(config)
    keys = ("heads", "eps", "activation", "pool", "rope", "rope_theta", "rope_grid")
    expected = {k: truth.get(k, usual.get(k)) for k in keys}
    listed = lambda v: list(v) if isinstance(v, tuple) else v  # noqa: E731
    assert {k: listed(found.get(k)) for k in keys} == expected


def test_an_argument_that_is_not_known_is_named(tmp_path):
    config = {"architecture": "vit_base_patch16_224", "model_args": {"attn_layer": "diff"}}
    with pytest.raises(UserError, match="attn_layer='diff'"):
        timm_models.options_of(config)


def test_without_a_configuration_heads_must_be_said(tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes((DATA / "timm_vit" / "model.safetensors").read_bytes())
    found = describe(str(weights))
    assert found.open == ("heads", "eps", "activation", "pool")
    assert found.options["image_size"] == 16 and found.options["depth"] == 2
    case = recorded("timm_vit")
    said = {"heads": 2, "eps": 1e-6, "activation": "gelu", "pool": "token"}
    backbone = vpjax.load_backbone(str(weights), attention="xla", **said)
    assert difference(features_of(backbone, case["images"]), case["features"]) < TOLERANCE
    with pytest.raises(UserError, match="heads, eps, activation, pool"):
        vpjax.load_backbone(str(weights))
