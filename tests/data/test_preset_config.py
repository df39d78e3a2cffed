"""Preprocessing beside weights, as a stranger or a bad disk has left it."""

import logging

import pytest

from vpjax.core.errors import UserError
from vpjax.core.size import pair
from vpjax.data.preset_config import fields_of

TIMM = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9}
VIT = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.5] * 3}
ODD = (float("nan"), float("inf"), 0, -1, "x", [], {}, [1], ["x"] * 3, 10**400)


def test_sound_ones_are_read():
    assert fields_of("timm", TIMM, {}).text == "bicubic,crop=0.9,mean=0.5,std=0.5"
    assert fields_of("transformers", {}, VIT).mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("value", ODD, ids=lambda v: repr(v)[:12])
def test_odd_values_are_never_taken_silently(caplog, value):
    caplog.set_level(logging.WARNING, logger="vpjax")
    for config in (TIMM | {"std": [0.5, value, 0.5]}, TIMM | {"crop_pct": value or -1}):
        assert fields_of("timm", config, {}) is None
    for key in ("image_std", "size", "rescale_factor", "resample"):
        found = fields_of("transformers", {}, VIT | {key: value})
        assert found is None or (min(found.std) > 0 and max(found.std) < 1e6)
    assert fields_of("timm", {"pretrained_cfg": "x"}, {}) is None
    assert fields_of("open_clip", {"preprocess_cfg": [1]}, {}) is None
    assert caplog.text.count("the preprocessing beside the weights") >= 4


@pytest.mark.parametrize("size", [{}, [], "x", None, [1], [1, 2, 3], ["a", "b"], 1.5])
def test_what_is_no_size(size):
    with pytest.raises(UserError, match="is no size in pixels"):
        pair(size)
