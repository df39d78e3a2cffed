"""What does not fit is said in one message: kind of file, names first, options, numbers, sizes."""

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

import vpjax
from tests.weights.test_timm import DIM, file_of, tiny
from vpjax.backbones.convnext import ConvNeXt
from vpjax.backbones.resnet import ResNet
from vpjax.backbones.vit import ViT
from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.models.factory import BackboneSpec
from vpjax.weights.load import load


def loaded(tmp_path, arrays, backbone=None, **options):
    backbone = backbone or nnx.eval_shape(lambda: tiny(ViT))
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(
        {n: np.ascontiguousarray(a, np.float32) for n, a in arrays.items()}, path
    )
    return load(str(path), params.flatten(nnx.state(backbone)), backbone.grid, **options)


TOKENS = {
    "dist_token": (1, "dist_token", "backbone.dist_token"),
    "reg_token": (4, r"registers \(reg_token in the file\)", "backbone.num_registers"),
    "register_tokens": (3, r"registers \(register_tokens in the file\)", "backbone.num_registers"),
}


@pytest.mark.parametrize("name", TOKENS)
def test_further_tokens_are_named_before_positions(tmp_path, name):
    count, said, option = TOKENS[name]
    more = {name: np.ones((1, count, DIM)), "pos_embed": np.ones((1, 11, DIM))}
    with pytest.raises(UserError, match=rf"unexpected \(1\):\n    {said}\n(?s:.*){option}"):
        loaded(tmp_path, file_of() | more)


def test_no_class_token(tmp_path):
    arrays = {n: a for n, a in file_of().items() if n != "cls_token"}
    arrays["pos_embed"] = np.ones((1, 9, DIM))
    with pytest.raises(UserError, match=r"missing \(1\):\n    cls_token\n.*backbone.class_token"):
        loaded(tmp_path, arrays)


def test_the_kind_of_file_comes_first(tmp_path):
    arrays = file_of() | {"blocks.0.attn.rel_pos_h": np.ones((7, 4))}
    with pytest.raises(UserError, match=r"a.safetensors, a file with timm's names, do not fit"):
        loaded(tmp_path, arrays)
    with pytest.raises(UserError, match=r", a SAM encoder, do not fit"):
        loaded(tmp_path, arrays, kind="a SAM encoder")
    with pytest.raises(UserError, match=r", a file of unknown names, do not fit"):
        loaded(tmp_path, {"w": np.ones(3)})


def test_the_encoder_of_sam(tmp_path):
    sam = {f"image_encoder.{n}": a for n, a in file_of().items() if n != "cls_token"}
    sam["image_encoder.pos_embed"] = np.ones((1, 4, 4, DIM))
    sam["image_encoder.blocks.0.attn.rel_pos_h"] = np.ones((7, 4))
    sam["mask_decoder.iou_token.weight"] = np.ones((1, 8))
    with pytest.raises(UserError, match=r"missing \(1\):\n    cls_token\n(?s:.*)rel_pos_h"):
        loaded(tmp_path, sam)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(tmp_path, value):
    arrays = file_of()
    arrays["blocks.1.norm2.weight"] = arrays["blocks.1.norm2.weight"].copy()
    arrays["blocks.1.norm2.weight"][2:4] = value
    with pytest.raises(UserError, match=rf"NaN or infinite(?s:.*)layers/1/norm2/scale: 2 of {DIM}"):
        loaded(tmp_path, arrays)


def test_only_what_is_used_must_be_finite(tmp_path):
    bad = {"head.weight": np.full((3, DIM), np.nan), "head.bias": np.zeros(3)}
    assert loaded(tmp_path, file_of() | bad).values
    with pytest.raises(UserError, match="kernel: "):
        loaded(tmp_path, file_of() | bad, head="load")


@pytest.mark.parametrize("theirs, ours", [(3, 1), (1, 3), (4, 3)])
def test_another_number_of_channels(tmp_path, theirs, ours):
    arrays = file_of()
    kernel = arrays["patch_embed.proj.weight"]
    arrays["patch_embed.proj.weight"] = np.ones((len(kernel), theirs, *kernel.shape[2:]))
    other = nnx.eval_shape(lambda: tiny(ViT, channels=ours))
    said = rf"takes images of {theirs} channels: set backbone.channels={theirs}"
    with pytest.raises(UserError, match=said):
        loaded(tmp_path, arrays, other)


# Sizes of images


def build(cls, variant, size):
    return nnx.eval_shape(lambda: cls(variant, size, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize(
    "cls, variant, size, near",
    [
        (ViT, "B/16", 230, "224 by 224 or 240 by 240"),
        (ViT, "Ti/16", (224, 100), "224 by 96 or 224 by 112"),
        (ConvNeXt, "T", 98, "96 by 96 or 100 by 100"),
    ],
)
def test_patches_must_cover_images(cls, variant, size, near):
    with pytest.raises(UserError, match=f"never be looked at. Set backbone.image_size to {near}"):
        build(cls, variant, size).check_image_size()


def test_overlapping_windows_see_every_pixel():
    build(ResNet, "18", 99).check_image_size()
    build(ViT, "B/16", (64, 96)).check_image_size()


def test_a_size_that_patches_do_not_divide_is_refused_where_models_are_made():
    with pytest.raises(UserError, match="image_size is 11 by 11 pixels, no multiple"):
        vpjax.load_backbone("digits_vit", image_size=11)
    with pytest.raises(UserError, match="unknown ResNet variant '7'"):
        vpjax.load_backbone("resnet.ResNet", "", variant=7)
    spec = BackboneSpec("resnet.ResNet", {"variant": 18, "image_size": 33})
    assert spec.completed()["variant"] == "18"
