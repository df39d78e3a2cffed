"""Preprocessing beside weights: pixels of timm, transformers and open_clip, photo by photo.

`make_preprocess` recorded them.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.zoo.preprocess_cases import CASES, images, places
from vpjax.data import preset
from vpjax.data.augment_host import OPERATIONS
from vpjax.data.preprocess import preprocess
from vpjax.data.transforms import preset_from

RECORDED = json.loads((Path(__file__).parent / "data/preprocess/recorded.json").read_text())
PHOTOS = images()


@pytest.mark.parametrize("key", PHOTOS)
@pytest.mark.parametrize("name", CASES)
def test_pixels_are_the_library_s(name, key):
    library, config, processor, size = CASES[name]
    chosen, image = preset_from(library, config, processor), PHOTOS[key]
    expected = RECORDED["cases"][name][key]
    pixels = chosen.host(image, size, train=False)
    assert pixels.shape == (size, size, 3)
    if expected["pixels"] is not None:
        digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
        assert digest == expected["pixels"]
    given = np.asarray(chosen.device(pixels[None], size, train=False)).reshape(-1)
    np.testing.assert_allclose(given[places(given.size)], expected["input"], atol=2e-6)
    if chosen.on_host(image.shape, size):  # small images are stretched on the device instead
        np.testing.assert_array_equal(preprocess([image], chosen.name, size).reshape(-1), given)


def test_small_images_stretched_on_the_device_differ_by_rounding_only():
    chosen = preset_from(*CASES["hf.siglip"][:3])
    pixels = chosen.host(PHOTOS["small"], 64, train=False)
    ours = preprocess([PHOTOS["small"]], chosen.name, 64)
    levels = np.abs((np.asarray(ours)[0] + 1) * 127.5 - pixels)
    assert levels.max() < 2.01 and (levels > 0.5).mean() < 0.3


def test_text_and_fields_say_the_same():
    for library, config, processor, _ in CASES.values():
        chosen = preset_from(library, config, processor)
        assert preset(chosen.name) == chosen


@pytest.mark.parametrize("case", RECORDED["rand_augment"])
def test_operations_of_rand_augment_are_timm_s(case):
    name, level, sign = case.split(",")
    picture, fill = Image.fromarray(PHOTOS["odd"]), (124, 116, 104)
    made = OPERATIONS[name](picture, float(level), float(sign), fill, Image.Resampling.BICUBIC)
    digest = hashlib.sha256(np.asarray(made).tobytes()).hexdigest()
    assert digest == RECORDED["rand_augment"][case]


def test_all_operations_of_rand_augment_are_compared():
    assert {case.split(",")[0] for case in RECORDED["rand_augment"]} == OPERATIONS.keys()
