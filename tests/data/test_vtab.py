"""Derived labels, at their thresholds; recorded ones are a case of tests/golden."""

import numpy as np
import pytest

from tests.data.fake import fake_tfds
from vpjax.core.errors import UserError
from vpjax.data import open_source, tfds, vtab


def clevr(*depths):
    return {"objects": {"pixel_coords": np.array([(1, 2, d) for d in depths], np.float32)}}


@pytest.mark.parametrize(
    ("depth", "label"),
    [(0.1, 0), (8.0, 0), (8.1, 1), (8.5, 1), (9.0, 2), (9.5, 3), (9.6, 4), (10.0, 4), (99, 5)],
)
def test_clevr_distance_is_that_of_the_nearest(depth, label):
    assert vtab.clevr_distance(clevr(200.0, depth, 150.0)) == label


@pytest.mark.parametrize("count", [3, 7, 10])
def test_clevr_count(count):
    assert vtab.clevr_count(clevr(*range(count))) == count - 3


def test_a_scene_without_objects_has_no_label():
    empty = {"objects": {"pixel_coords": np.zeros((0, 3), np.float32)}}
    assert vtab.clevr_count(empty) < 0
    assert vtab.clevr_distance(empty) > 5


@pytest.mark.parametrize(
    ("depths", "types", "label"),
    [
        ([5.0, 30.0], [0, 1], 0),
        ([5.0, 30.0], [3, 1], 2),  # what is near is a pedestrian
        ([8.0], [2], 0),
        ([8.001], [2], 1),
        ([20.0], [0], 1),
        ([5.0], [7], 3),
        ([], [], 3),
    ],
)
def test_kitti_distance_is_that_of_vehicles(depths, types, label):
    location = np.array([(0, 0, d) for d in depths], np.float32)
    example = {"objects": {"location": location, "type": np.array(types, np.int64)}}
    assert vtab.kitti_distance(example) == label


def test_dsprites():
    places = [vtab.dsprites_location({"label_x_position": x}) for x in range(32)]
    assert places == [x // 2 for x in range(32)]
    turns = [vtab.dsprites_orientation({"label_orientation": x}) for x in range(40)]
    assert [turns.count(c) for c in range(16)] == [3, 2] * 8
    assert turns[2] == 0 and turns[3] == 1 and turns[5] == 2 and turns[39] == 15


def test_labels_of_stored_examples(tmp_path):
    fake_tfds(tmp_path, "kitti", {"train": 8})
    fake_tfds(tmp_path, "dsprites", {"train": 8})
    classes = [str(i) for i in range(16)]
    folder = tfds.find("kitti", tmp_path)
    source = tfds.read(folder, "train", label=vtab.kitti_distance, classes=classes[:4])
    labels = source.labels()
    assert ((labels >= 0) & (labels < 4)).all() and 3 in labels
    folder = tfds.find("dsprites", tmp_path)
    source = tfds.read(folder, "train", label=vtab.dsprites_location, classes=classes)
    assert sorted(source.labels()) == sorted(i // 2 for i in range(8))


@pytest.mark.parametrize(
    ("task", "splits", "sizes"),
    [
        ("pets", {"train": 1000, "test": 6}, (800, 200, 1000, 6)),
        ("dtd", {"train": 900, "validation": 260, "test": 5}, (800, 200, 1000, 5)),
        ("smallnorb_azimuth", {"train": 820, "test": 420}, (800, 200, 1000, 210)),
    ],
)
def test_the_splits_of_a_task(tmp_path, task, splits, sizes):
    fake_tfds(tmp_path, vtab.TASKS[task].data, splits)
    for name, size in zip(("train800", "val200", "train800val200", "test"), sizes, strict=True):
        assert len(open_source(f"vtab/{task}", name, tmp_path)) == size
    whole = open_source(f"vtab/{task}", "train", tmp_path)
    assert len(whole) == splits["train"]
    assert whole.num_classes == {"pets": 37, "dtd": 47, "smallnorb_azimuth": 18}[task]


def test_val_begins_after_its_share_of_train(tmp_path):
    folder = fake_tfds(tmp_path, "svhn_cropped", {"train": 2000, "test": 3})
    val = open_source("vtab/svhn", "val200", tmp_path)
    train = tfds.read(folder, "train")
    assert len(val) == 200
    np.testing.assert_array_equal(val[0]["image"], train[1800]["image"])


def test_binary_pixels_become_black_and_white(tmp_path):
    fake_tfds(tmp_path, "dsprites", {"train": 12})
    source = open_source("vtab/dsprites_location", "train", tmp_path)
    plain = tfds.read(tfds.find("dsprites", tmp_path), "train", label="label_x_position")
    np.testing.assert_array_equal(source[3]["image"], 255 * plain[3]["image"])
    assert source.num_classes == 16


def test_a_task_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'vtab/svhn'"):
        open_source("vtab/svnh", "train800", tmp_path)


def test_every_published_task_is_there():
    assert len(vtab.TASKS) == 19
    groups = [t.group for t in vtab.TASKS.values()]
    assert [groups.count(g) for g in ("natural", "specialised", "structured")] == [7, 4, 8]
