"""The bundled digits."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vpjax.core.errors import UserError
from vpjax.data import digits, open_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("digits")


def test_sizes_and_classes(folder):
    sizes = {}
    for half, names in {"low": "01234", "high": "56789"}.items():
        for split in ("train", "test"):
            source = open_source(f"digits/{half}", split, folder)
            source.check(5)
            assert source.classes == tuple(names) and source.image_shape == (8, 8, 1)
            sizes[half, split] = len(source)
    assert sizes == {
        ("low", "train"): 708,
        ("low", "test"): 193,
        ("high", "train"): 729,
        ("high", "test"): 167,
    }


def test_pixels_and_labels_are_the_original_ones(folder):
    images, truth = load_digits(return_X_y=True)
    expected = {
        (np.rint(image * 255 / 16).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(images, truth, strict=True)
    }
    have = set()
    for half, first in {"low": 0, "high": 5}.items():
        source = open_source(f"digits/{half}:1.0.0", "train+test", folder)
        examples = source.__getitems__(range(len(source)))
        have |= {(e["image"].tobytes(), e["label"] + first) for e in examples}
    assert have == expected


def test_public_loader_serves_where_the_table_has_moved(monkeypatch):
    fast = digits.load()
    monkeypatch.setattr(digits.Path, "exists", lambda self: False)
    for a, b in zip(fast, digits.load(), strict=True):
        assert (a == b).all() and a.dtype == b.dtype


def test_two_processes_at_once(tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        folders = list(pool.map(digits.prepare, ["digits/high"] * 2, [tmp_path] * 2))
    assert folders[0] == folders[1] == tmp_path / "digits" / "high" / "1.0.0"
    assert os.listdir(tmp_path) == ["digits"]  # no half-written folder stays
    assert len(open_source("digits/high", "test", tmp_path)) == 167


def test_cache_folder_without_data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path))
    assert digits.prepare("digits/low") == tmp_path / "data" / "digits" / "low" / "1.0.0"


def test_errors(tmp_path):
    with pytest.raises(UserError, match="Available: digits/high, digits/low"):
        open_source("digits", "train", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the digits to"):
        open_source("digits/low", "train", tmp_path / "file")
