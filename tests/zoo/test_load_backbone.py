"""A file of weights alone, as its library saves it, gives the library's features."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import vpjax
from tests.zoo.loading import DATA, TOLERANCE, difference, features_of, recorded
from tests.zoo.table import END, PAGE, START, folders, loaded
from vpjax.core.errors import UserError


@pytest.mark.parametrize("folder", folders())
def test_weights_alone_are_enough(folder):
    case = recorded(folder)
    backbone = loaded(folder)
    assert difference(features_of(backbone, case["images"]), case["features"]) < TOLERANCE


@pytest.mark.parametrize("name", ["dinov2", "vit", "siglip"])
def test_positions_of_another_size_than_the_images_that_are_prepared(tmp_path, name):
    # DINOv2 as published: positions of 518 pixels, and a preprocessing that makes 224.
    folder = shutil.copytree(DATA / f"transformers_{name}", tmp_path / name)
    case = recorded(f"transformers_{name}")
    height, width = case["other_images"].shape[1:3]
    crop = {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
    (folder / "preprocessor_config.json").write_text(json.dumps(crop))
    backbone = vpjax.load_backbone(str(folder))
    found = features_of(backbone, case["other_images"])
    assert difference(found, case["other_features"]) < TOLERANCE


def test_the_page_has_a_row_for_each():
    page = PAGE.read_text().partition(START)[2].partition(END)[0]
    assert len(page.splitlines()) == len(folders()) + 2  # else: python -m tests.zoo.table


CONTRADICTIONS = {
    "depth": ({"model_args": {"depth": 5}}, "depth: config.json 5, arrays 2"),
    "embed_dim": ({"model_args": {"embed_dim": 64}}, "embed_dim: config.json 64, arrays 16"),
    "patch_size": ({"model_args": {"patch_size": 8}}, "patch_size: config.json 8, arrays 4"),
    "img_size": ({"model_args": {"img_size": 32}}, "image size: config.json 32, positions"),
    "in_chans": ({"model_args": {"in_chans": 1}}, "in_chans: config.json 1, arrays 3"),
    "registers": ({"model_args": {"reg_tokens": 4}}, "reg_tokens: config.json 4, arrays 0"),
    "layer scale": ({"model_args": {"init_values": 0.1}}, "init_values: config.json 0.1"),
    "query norm": ({"model_args": {"qk_norm": True}}, "qk_norm: config.json True, arrays False"),
    "no arguments": ({"model_args": None}, "has 12 heads, and the arrays are 16 wide"),
    "rotary": ({"architecture": "vit_small_patch16_dinov3"}, "has rotary ones"),
    "tables": ({"architecture": "beit_base_patch16_224"}, "no tables of relative positions"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_configuration_that_contradicts_the_arrays_is_refused(tmp_path, name):
    change, message = CONTRADICTIONS[name]
    config = json.loads((DATA / "timm_vit" / "config.json").read_text())
    args = config["model_args"]
    if (given := change.get("model_args", {})) is not None:
        config |= change | {"model_args": args | given}
    else:
        del config["model_args"]
    shutil.copy(DATA / "timm_vit" / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="One of both belongs to other weights") as error:
        vpjax.load_backbone(str(tmp_path))
    assert message in str(error.value)


def test_a_quantised_file_is_refused(tmp_path):
    folder = shutil.copytree(DATA / "timm_vit", tmp_path / "vit")
    arrays = load_file(folder / "model.safetensors")
    whole = {n: (v * 10).astype(np.int8) for n, v in arrays.items()}
    save_file(whole, folder / "model.safetensors")
    with pytest.raises(UserError, match="hold whole numbers in(?s:.*)int8"):
        vpjax.load_backbone(str(folder))
