"""Prepared TFDS data: formats, versions, splits."""

import shutil

import numpy as np
import pytest

from tests.data.fake import as_tfrecord, fake_tfds
from vpjax.core.errors import UserError
from vpjax.data import open_source, tfds, tfrecord


def everything(source):
    return [(e["image"].tobytes(), e["label"]) for e in source.__getitems__(range(len(source)))]


def test_official_sets(data_dir):
    cifar = open_source("cifar10", "train", data_dir)
    assert cifar.name == "cifar10:3.0.2[train]"
    assert cifar.image_shape == (32, 32, 3) and cifar.num_classes == 10
    assert open_source("mnist", "test", data_dir)[0]["image"].shape == (28, 28, 1)
    flowers = open_source("oxford_flowers102", "validation", data_dir)
    assert flowers.classes[0] == "pink primrose" and None in flowers.image_shape
    assert flowers.image_shape == (None, None, 3)
    assert open_source("eurosat/rgb", "train", data_dir).name == "eurosat/rgb:2.0.0[train]"
    assert len(open_source("eurosat", "train", data_dir)) == 20  # rgb is TFDS's first config


def test_splits(data_dir):
    whole = everything(open_source("cifar10", "train", data_dir))
    for split, part in {
        "train[:90%]": slice(0, 36),
        "train[5:12]": slice(5, 12),
        "train[-4:]": slice(36, 40),
    }.items():
        assert everything(open_source("cifar10", split, data_dir)) == whole[part]
    test = everything(open_source("cifar10", "test", data_dir))
    summed = open_source("cifar10", "test[:3]+train[38:]", data_dir)
    assert everything(summed) == test[:3] + whole[38:]
    assert summed.name == "cifar10:3.0.2[test[:3]+train[38:]]"
    empty = open_source("cifar10", "train[:0]", data_dir)
    with pytest.raises(UserError, match="has no examples"):
        empty.check(10)


def test_split_errors(data_dir):
    with pytest.raises(UserError, match="unknown split of cifar10:3.0.2 in .* 'val'.*test, train"):
        open_source("cifar10", "train+val", data_dir)
    with pytest.raises(UserError, match=r"train\[:99\].*40 examples. .*train \(40\)"):
        open_source("cifar10", "train[:99]", data_dir)
    with pytest.raises(UserError, match="Splits and sizes: train"):
        open_source("cifar10", "train[:5%", data_dir)


@pytest.mark.parametrize("name", ["cifar10", "oxford_flowers102", "eurosat/rgb"])
def test_tfrecord_equals_array_record(data_dir, tmp_path, name):
    shutil.copytree(data_dir, tmp_path / "data")
    as_tfrecord(tfds.find(name, tmp_path / "data"))
    splits = ["train", "train[3:9]", "train[10:]+train[:5]"]
    for split in splits:
        before = open_source(name, split, data_dir)
        for _ in range(2):  # the second time from the cached index
            after = open_source(name, split, tmp_path / "data")
            assert everything(after) == everything(before)
            assert after.fingerprint == before.fingerprint
            assert (after.labels() == before.labels()).all()


def test_tfrecord_cut_short(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    folder = tfds.find("mnist", tmp_path / "data")
    as_tfrecord(folder)
    (file,) = folder.glob("*train.tfrecord*")
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    with pytest.raises(UserError, match="ends inside record 23"):
        open_source("mnist", "train", tmp_path / "data")
    file.write_bytes(b"")
    with pytest.raises(UserError, match="holds 0 records; 24 were expected"):
        open_source("mnist", "train", tmp_path / "data")
    assert tfrecord.index(next(folder.glob("*test.tfrecord*"))).shape == (10, 2)


def test_an_example_that_names_its_file(data_dir):
    source = open_source("oxford_flowers102", "train", data_dir)
    assert source.records.__getitems__([0])[0].file.startswith("file-")


def test_old_version_on_disk_wins(tmp_path):
    fake_tfds(tmp_path, "oxford_iiit_pet", {"train": 4}, version="3.2.0")
    assert open_source("oxford_iiit_pet", "train", tmp_path).name == "oxford_iiit_pet:3.2.0[train]"
    fake_tfds(tmp_path, "oxford_iiit_pet", {"train": 6}, version="3.10.0")
    assert len(open_source("oxford_iiit_pet", "train", tmp_path)) == 6  # 3.10 is above 3.2
    assert len(open_source("oxford_iiit_pet:3.2.0", "train", tmp_path)) == 4
    assert tfds.find("oxford_iiit_pet:4.0.0", tmp_path) is None


def test_imported_set_needs_no_builder(data_dir, tmp_path):
    """A folder TFDS has no code for is found by its name."""
    shutil.copytree(data_dir / "eurosat", tmp_path / "my_photos")
    assert len(open_source("my_photos/rgb", "train", tmp_path)) == 20
    assert len(open_source("my_photos", "train", tmp_path)) == 20
    shutil.copytree(tmp_path / "my_photos" / "rgb", tmp_path / "my_photos" / "big")
    with pytest.raises(UserError, match="several configs: big, rgb"):
        open_source("my_photos", "train", tmp_path)


def test_imported_set_without_that_version(data_dir, tmp_path):
    shutil.copytree(data_dir / "eurosat", tmp_path / "my_photos")
    with pytest.raises(UserError, match="my_photos:9.9.9 is not in .* holds my_photos/rgb/2.0.0"):
        open_source("my_photos:9.9.9", "train", tmp_path)


def test_order_does_not_depend_on_shards(tmp_path):
    for shards in (1, 4):
        fake_tfds(tmp_path / str(shards), "mnist", {"train": 30}, shards=shards)
    one, four = (open_source("mnist", "train[7:25]", tmp_path / str(s)) for s in (1, 4))
    assert everything(one) == everything(four)


def test_features_and_derived_labels(tmp_path):
    fake_tfds(tmp_path, "smallnorb", {"train": 6})
    fake_tfds(tmp_path, "clevr", {"train": 8})
    folder = tfds.find("smallnorb", tmp_path)
    with pytest.raises(UserError, match="Available: image, image2, instance, label_azimuth"):
        tfds.read(folder, "train")
    azimuth = tfds.read(folder, "train", label="label_azimuth")
    assert azimuth.num_classes == 18 and azimuth[0]["image"].shape == (96, 96, 1)
    clevr = tfds.read(
        tfds.find("clevr", tmp_path),
        "train",
        label=lambda example: len(example["objects"]["shape"]),
        classes=["0", "1", "2", "3"],
    )
    assert sorted(clevr.labels()) == sorted(np.arange(8) % 4)


def test_data_dir_from_environment(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert len(open_source("mnist", "train")) == 24
