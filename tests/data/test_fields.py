"""Presets as text, and as configurations beside weights describe them."""

import dataclasses
import logging

import numpy as np
import pytest

from tests.helpers import presets_page
from vpjax.core.errors import UserError
from vpjax.data import PRESETS, Preset, preset
from vpjax.data.transforms import preset_from

HALF = (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", PRESETS)
def test_the_text_of_every_preset_says_all_of_it(name):
    plain = dataclasses.replace(PRESETS[name], name="")
    assert plain.name == plain.text
    again = preset(plain.text)
    assert dataclasses.replace(again, name="") == plain


TEXTS = {
    "bicubic,crop=0.9,mean=0.5,std=0.5": Preset("", HALF, HALF, "pil_bicubic", "short", (1, 0.9)),
    " lanczos , squash=7/8 , mean=0.5, std=0.1/0.2/0.3": Preset(
        "", HALF, (0.1, 0.2, 0.3), "pil_lanczos", "squash", (8, 7)
    ),
    "bilinear,crop=224/224,offset=down,mean=0,std=1": Preset(
        "", (0.0,) * 3, (1.0,) * 3, "pil_bilinear", "short", offset="down"
    ),
    "none,pad_crop,flip,mean=0.5,std=0.5": Preset(
        "", HALF, HALF, None, "none", augment=("pad_crop", "flip")
    ),
    "imagenet,crop=0.95": dataclasses.replace(
        PRESETS["imagenet"], name="", rule="short", short=(1, 0.95)
    ),
    "squash=1,bicubic,mean=0.5,std=0.5": PRESETS["siglip"],
    "inception,mean=0.5": PRESETS["inception"],
}


@pytest.mark.parametrize("text", TEXTS)
def test_text_to_fields(text):
    assert preset(text) == TEXTS[text]
    assert preset(preset(text).name) == TEXTS[text]
    assert preset(TEXTS[text]) is TEXTS[text]


WRONG = {
    "bicubic,mean=0.5": "does not say std=",
    "crop=0.9,mean=0.5,std=0.5": "does not say an interpolation such as bicubic",
    "bicubic,crop=1.1,mean=0.5,std=0.5": "no share above 0",
    "bicubic,crop=0,mean=0.5,std=0.5": "no share above 0",
    "bicubic,crop=x,mean=0.5,std=0.5": "crop=x is no number",
    "bicubic,mean=0.5/0.4,std=0.5": "not one number or three",
    "bicubic,mean=0.5,std=0": "all above 0",
    "bicubic,offset=up,mean=0.5,std=0.5": "'offset=up' is unknown",
    "cubic,mean=0.5,std=0.5": "unknown preset 'cubic'",
    "bicubic,blur,mean=0.5,std=0.5": "'blur' is unknown. Words: bilinear",
    "imagnet,crop=0.9": "Did you mean 'imagenet'",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_text(text):
    with pytest.raises(UserError, match=WRONG[text]):
        preset(text)


def test_shares_follow_the_size_of_the_model():
    photo = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    chosen = preset("bicubic,crop=224/256,mean=0.5,std=0.5")
    assert chosen.host(photo, 112, train=False).shape == (112, 112, 3)
    wide = preset("bicubic,squash=0.9,mean=0.5,std=0.5")
    assert wide.host(photo, (96, 64), train=False).shape == (96, 64, 3)
    assert wide.on_host((64, 64, 3), 96)  # squares are cropped on the host, also small ones


def test_the_page_lists_every_preset():
    assert presets_page.parts()[1] == presets_page.table()


# Configurations

TIMM = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "crop_pct": 0.9}
VIT = {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}}


def test_what_equals_a_preset_gets_its_name():
    assert preset_from("transformers", {}, VIT).name == "inception"
    assert preset_from("transformers", {}, VIT | {"resample": 3}).name == "siglip"
    assert preset_from("open_clip", {"model_cfg": {}}, {}).name == "clip"
    whole = {"pretrained_cfg": TIMM | {"crop_mode": "squash", "crop_pct": 1.0}}
    assert preset_from("timm", whole, {}).name == "siglip"
    found = preset_from("timm", {"pretrained_cfg": TIMM}, {})
    assert found.name == "bicubic,crop=0.9,mean=0.5,std=0.5"


def test_older_forms_of_configurations():
    flat = preset_from("timm", {"architecture": "vit"} | TIMM, {})
    assert flat == preset_from("timm", {"pretrained_cfg": TIMM}, {})
    edge = {"feature_extractor_type": "ViTFeatureExtractor", "size": 384, "resample": 2}
    assert preset_from("transformers", {}, edge).name == "inception"
    clip = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224}
    assert preset_from("transformers", {}, clip).rule == "short"
    dino = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}}
    found = preset_from("transformers", {}, dino | {"crop_size": {"height": 224, "width": 224}})
    assert (found.short, found.offset) == ((256, 224), "down")


def test_nothing_says_it():
    assert preset_from("", {}, {}) is None
    assert preset_from("transformers", {"model_type": "vit"}, {}) is None
    assert preset_from("timm", {"architecture": "vit"}, {}) is None


NOT_DONE = [
    ("timm", {"pretrained_cfg": TIMM | {"crop_mode": "border"}}, {}, "crop_mode='border'"),
    ("timm", {"pretrained_cfg": TIMM | {"interpolation": "hamming"}}, {}, "'hamming'"),
    ("timm", {"pretrained_cfg": TIMM | {"mean": [0.1] * 4}}, {}, "of 4 channels"),
    ("open_clip", {"preprocess_cfg": {"resize_mode": "longest"}}, {}, "resize_mode='longest'"),
    ("transformers", {}, VIT | {"resample": 0}, "resample=0"),
    ("transformers", {}, VIT | {"do_pad": True}, "do_pad=True"),
    ("transformers", {}, VIT | {"do_flip_channel_order": True}, "do_flip_channel_order=True"),
    ("transformers", {}, VIT | {"size": {"longest_edge": 3}}, "size={'longest_edge': 3}"),
    ("transformers", {}, VIT | {"size": {"shortest_edge": 3}}, "do_center_crop=False"),
    ("transformers", {}, VIT | {"image_processor_type": "DonutImageProcessor"}, "'DonutImage"),
    ("transformers", {}, {"size": 224}, "image_processor_type=''"),
    (
        "transformers",
        {},
        VIT | {"do_center_crop": True, "crop_size": {"height": 200, "width": 100}},
        "crop_size=",
    ),
]


@pytest.mark.parametrize("library, config, processor, said", NOT_DONE)
def test_what_is_not_done_is_named(library, config, processor, said, caplog):
    with caplog.at_level(logging.WARNING):
        assert preset_from(library, config, processor) is None
    assert said in caplog.text and "name a preset" in caplog.text
