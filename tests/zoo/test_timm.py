"""Models of timm, small and random: the same features and logits as timm's. See make_timm.py."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

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


def renamed(folder, target, change):
    """Writes a case's arrays under other names, with its configuration; returns the path."""
    arrays = load_file(DATA / folder / "model.safetensors")
    save_file(change(arrays), target / "model.safetensors")
    (target / "config.json").write_text((DATA / folder / "config.json").read_text())
    return str(target)


def test_dinov2_by_the_names_of_its_authors(tmp_path):
    names = {"mlp.fc1.": "mlp.w12.", "mlp.fc2.": "mlp.w3."}

    def change(arrays):
        out = {"mask_token": arrays["cls_token"][0]}
        for name, array in arrays.items():
            for timm, theirs in names.items():
                name = name.replace(timm, theirs)
            out[name] = array
        return out

    case = recorded("timm_dinov2_giant")
    where = renamed("timm_dinov2_giant", tmp_path, change)
    backbone = vpjax.load_backbone(where, attention="xla", dropout=0.0)
    assert difference(features_of(backbone, case["images"]), case["features"]) < TOLERANCE


def test_beit_s_pretraining_shares_a_table(tmp_path):
    table = "blocks.{}.attn.relative_position_bias_table".format

    def shared(arrays):
        first = arrays.pop(table(0))
        arrays.pop(table(1))
        return arrays | {"rel_pos_bias.relative_position_bias_table": first}

    def repeated(arrays):
        return arrays | {table(1): arrays[table(0)]}

    images, features = recorded("timm_beit")["images"], []
    for name, change in (("shared", shared), ("repeated", repeated)):
        (tmp_path / name).mkdir()
        where = renamed("timm_beit", tmp_path / name, change)
        features.append(features_of(vpjax.load_backbone(where, dropout=0.0), images))
    assert (features[0] == features[1]).all()


def test_a_head_behind_pre_logits_needs_them(tmp_path):
    def change(arrays):
        bias = arrays["norm.bias"]
        kernel = np.eye(len(bias), dtype=bias.dtype)
        return arrays | {"pre_logits.fc.weight": kernel, "pre_logits.fc.bias": bias}

    where = renamed("timm_vit", tmp_path, change)
    options = vpjax.load_backbone(where).origin.spec.options
    for pre_logits in (False, True):
        backbone = vpjax.load_backbone(where, pre_logits=pre_logits)
        spec = BackboneSpec("vit.ViT", dict(options), where, "load")
        if pre_logits:
            assert load_weights(backbone, spec).head["kernel"].shape == (16, 3)
            continue
        with pytest.raises(UserError, match="reads pre_logits, a layer that is left out"):
            load_weights(backbone, spec)
