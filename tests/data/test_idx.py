"""MNIST's kind as it lies on disk: IDX files, compressed or not, where torchvision puts them."""

import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from vpjax.core.errors import UserError
from vpjax.data import open_source

RNG = np.random.default_rng(0)
PACKAGE = Path("usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist
COUNTS = {"train": 20, "t10k": 8}


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.tobytes()


def write(folder, start="", zipped=True, size=(6, 5), classes=4):
    """Writes four files; returns the images and labels by split."""
    folder.mkdir(parents=True, exist_ok=True)
    out = {}
    for part, n in COUNTS.items():
        images = RNG.integers(0, 256, (n, *size), np.uint8)
        labels = (np.arange(n) % classes).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            file = folder / f"{start}{part}-{name}-ubyte{'.gz' if zipped else ''}"
            file.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
        out[part] = images, labels
    return out


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("below", ["", "raw", "FashionMNIST/raw"])
def test_files_are_found_and_read(tmp_path, zipped, below):
    images, labels = write(tmp_path / "x" / below, zipped=zipped)["train"]
    source = open_source("idx:x", "train[5:]", tmp_path)
    assert source.image_shape == (6, 5, 1) and source.classes == ("0", "1", "2", "3")
    assert source.labels().tolist() == labels[5:].tolist()
    assert all((source[i]["image"][..., 0] == images[5 + i]).all() for i in range(15))
    both = open_source(f"idx:{tmp_path / 'x'}", "train[:3]+test")
    assert len(both) == 11 and len(open_source(f"idx:{tmp_path / 'x'}", "t10k")) == 8


def test_names_with_a_dot_and_with_a_prefix(tmp_path):
    write(tmp_path / "a", "emnist-letters-", zipped=False)
    assert len(open_source(f"idx:{tmp_path / 'a'}", "test")) == 8
    for file in (tmp_path / "a").iterdir():
        file.rename(
            file.with_name(file.name.replace("emnist-letters-", "").replace("-idx", ".idx"))
        )
    assert len(open_source(f"idx:{tmp_path / 'a'}", "train")) == 20


def test_several_sets_are_named(tmp_path):
    write(tmp_path / "MNIST" / "raw")
    write(tmp_path / "FashionMNIST" / "raw")
    with pytest.raises(UserError, match=r"several sets.*FashionMNIST.*MNIST"):
        open_source(f"idx:{tmp_path}", "train")
    assert len(open_source(f"idx:{tmp_path / 'MNIST'}", "train")) == 20


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda b: b[: len(b) // 2], "cannot be read"),
        (
            lambda b: gzip.compress(gzip.decompress(b)[:-7]),
            r"holds 593 bytes for shape \(20, 6, 5\)",
        ),
        (lambda b: b"<html>not found</html>", "no IDX file"),
        (lambda b: gzip.compress(gzip.decompress(b)[:9]), "damaged or cut short"),
        (lambda b: gzip.compress(idx(np.zeros((19, 6, 5), np.uint8))), "n images H W and n labels"),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, says):
    write(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=says) as error:
        open_source(f"idx:{tmp_path}", "train")
    assert str(file) in str(error.value)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(UserError, match="no IDX files"):
        open_source(f"idx:{tmp_path}", "train")
    with pytest.raises(UserError, match="is no folder"):
        open_source(f"idx:{tmp_path / 'nowhere'}", "train")
    write(tmp_path)
    with pytest.raises(UserError, match="unknown split.*'val'.*test, train"):
        open_source(f"idx:{tmp_path}", "val")
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="unknown split"):
        open_source(f"idx:{tmp_path}", "test")


def package():
    """Returns the folder of Debian's package, installed or in VPJAX_REAL; None: neither."""
    real = Path(os.environ.get("VPJAX_REAL", "/nowhere"))
    places = [Path("/") / PACKAGE, real / "x" / PACKAGE, real / PACKAGE, real / "fashion-mnist"]
    return next((p for p in places if (p / "train-images-idx3-ubyte.gz").is_file()), None)


@pytest.mark.real
def test_fashion_mnist_of_debian(tmp_path):
    folder = package()
    if folder is None:
        pytest.skip("dataset-fashion-mnist is neither installed nor in VPJAX_REAL")
    train, test = (open_source(f"idx:{folder}", part) for part in ("train", "test"))
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.counts().tolist() == [6_000] * 10 and test.classes[9] == "Ankle boot"
    assert train.labels()[:5].tolist() == [9, 0, 0, 3, 0]
    assert train[0]["image"].shape == (28, 28, 1)
    # Under another name it is still known by its labels.
    for part in ("labels-idx1", "images-idx3"):
        shutil.copy(folder / f"train-{part}-ubyte.gz", tmp_path)
    assert open_source(f"idx:{tmp_path}", "train[:10]").classes == train.classes
