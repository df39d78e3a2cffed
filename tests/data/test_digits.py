"""The bundled digits."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vpjax.core.errors import UserError
from vpjax.data import open_source

# As of the first release: runs are resumed and features found by these.
FINGERPRINTS = {
    ("low", "train"): (708, "086008fbdd4762b4"),
    ("low", "test"): (193, "5a52992bd5436235"),
    ("low", "train[:3]+test[5:]"): (191, "64af9d3c598c0154"),
    ("low", "test[13%:77%]"): (124, "97fb2f350bc17cf8"),
    ("high", "train"): (729, "da230339785504ec"),
    ("high", "test"): (167, "0f382cd42368f296"),
    ("high", "train[:3]+test[5:]"): (165, "8fce4caecc057d52"),
    ("high", "test[13%:77%]"): (107, "21575c32d707dae0"),
}


@pytest.mark.parametrize(("half", "split"), FINGERPRINTS)
def test_splits_are_those_of_the_first_release(half, split):
    size, fingerprint = FINGERPRINTS[half, split]
    source = open_source(f"digits/{half}", split)
    source.check(5)
    assert source.name == f"digits/{half}:1.0.0[{split}]"
    assert source.classes == tuple({"low": "01234", "high": "56789"}[half])
    assert len(source) == size and source.image_shape == (8, 8, 1)
    assert source.fingerprint.startswith(fingerprint)


def test_pixels_and_labels_are_the_original_ones():
    images, truth = load_digits(return_X_y=True)
    expected = sorted(
        (np.rint(image * 255 / 16).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(images, truth, strict=True)
    )
    have = []
    for half, first in {"low": 0, "high": 5}.items():
        source = open_source(f"digits/{half}:1.0.0", "train+test")
        examples = source.__getitems__(range(len(source)))
        have += [(e["image"].tobytes(), e["label"] + first) for e in examples]
    assert sorted(have) == expected


def test_slices():
    whole, first, last = (
        [(e["image"].tobytes(), e["label"]) for e in source.__getitems__(range(len(source)))]
        for split in ("train", "train[:90%]", "train[90%:]")
        for source in [open_source("digits/high", split)]
    )
    assert first + last == whole and len(first) == 656


def test_errors():
    for name in ("digits", "digits/middle", "digits/low:2.0.0"):
        with pytest.raises(UserError, match="Available: digits/high, digits/low"):
            open_source(name, "train")
    with pytest.raises(UserError, match="unknown split of digits/low:1.0.0 'val'.*test, train"):
        open_source("digits/low", "val")
    with pytest.raises(UserError, match="outside of its 708 images"):
        open_source("digits/low", "train[:709]")
