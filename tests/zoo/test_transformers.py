"""Models of transformers and torchvision, small and random: the same features as the library's."""

import pytest

from tests.zoo.loading import DATA, TOLERANCE, backbone_of, difference, features_of, recorded
from vpjax.core.errors import UserError

FOLDERS = sorted(p.name for p in DATA.glob("transformers_*")) + ["torchvision_vit"]
# What a classifier needs that reads other features than the model's usual ones.
HEADS = {"transformers_dinov2": "token_mean", "transformers_dinov2_swiglu": "token_mean"}
HEADS |= {"transformers_siglip": "mean"}
REFUSED = {"transformers_deit_teacher": "it has two, one for the class token"}
REFUSED |= {"transformers_siglip": "Set backbone.pool='mean'"}


def model_of(folder, **options):
    if folder == "torchvision_vit":
        options |= {"heads": 2}  # none of the library's five, so that nothing says it
    return backbone_of(DATA / folder / "model.safetensors", **options)


@pytest.mark.parametrize("folder", FOLDERS)
def test_features_are_the_library_s(folder):
    case = recorded(folder)
    backbone, loaded = model_of(folder)
    assert loaded.resized == ""
    assert difference(features_of(backbone, case["images"]), case["features"]) < TOLERANCE


@pytest.mark.parametrize("folder", FOLDERS)
def test_images_of_another_size(folder):
    case = recorded(folder)
    if "other_images" not in case:
        pytest.skip("the library takes no other size")
    images = case["other_images"]
    backbone, _ = model_of(folder, image_size=images.shape[1:3])
    assert difference(features_of(backbone, images), case["other_features"]) < TOLERANCE


def test_positions_and_tables_of_one_file_are_not_resized_by_one_rule():
    with pytest.raises(UserError, match="resizes by two rules"):
        model_of("transformers_beit_shared", image_size=(24, 12))


@pytest.mark.parametrize("folder", FOLDERS)
def test_classifiers(folder):
    case = recorded(folder)
    if "logits" not in case:
        pytest.skip("a model without a classifier")
    if folder in REFUSED:
        with pytest.raises(UserError, match=REFUSED[folder]):
            model_of(folder, head="load")
    if folder in REFUSED and folder not in HEADS:
        return
    options = {"pool": HEADS[folder]} if folder in HEADS else {}
    backbone, loaded = model_of(folder, head="load", **options)
    logits = features_of(backbone, case["images"]) @ loaded.head["kernel"] + loaded.head["bias"]
    assert difference(logits, case["logits"]) < TOLERANCE
