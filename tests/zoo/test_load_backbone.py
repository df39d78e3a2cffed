"""A file of weights alone, as its library saves it, gives the library's features."""

import json
import shutil

import pytest

import vpjax
from tests.zoo.loading import DATA, TOLERANCE, difference, features_of, recorded
from tests.zoo.table import END, PAGE, START, folders, loaded


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
