"""A few images of each class, and the first or second half of the classes."""

import numpy as np
import pytest

from tests.helpers.photos import photo
from vpjax.core.errors import UserError
from vpjax.data import open_source
from vpjax.data.arrays import from_arrays
from vpjax.data.subset import half, select_classes, select_shots

COUNTS = {"ant": 6, "bee": 9, "cow": 2, "dog": 7, "eel": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("few")
    for split in ("train", "test"):
        for c, (name, count) in enumerate(COUNTS.items()):
            for i in range(count):
                photo(root / split / name / f"{i}.jpg", (50 * c, 100, 90), i)
    return root


@pytest.fixture
def train(folder):
    return open_source(f"folder:{folder}", "train")


def chosen(source):
    return set(source.records.names)


def test_so_many_images_of_each_class(train, caplog):
    some = select_shots(train, 4, seed=1)
    assert some.counts().tolist() == [4, 4, 2, 4, 4] and some.classes == train.classes
    assert "fewer than 4 images of cow" in caplog.text
    assert some.name == f"{train.name} (4 images a class)"
    for i in range(len(some)):
        assert some.records.names[i].split("/")[-2] == some.classes[some[i]["label"]]
    assert chosen(select_shots(train, 4, seed=1)) == chosen(some)


def test_the_seed_draws_and_more_shots_hold_fewer(train):
    by_seed = [chosen(select_shots(train, 4, seed)) for seed in (1, 2, 3)]
    assert len(set(map(frozenset, by_seed))) == 3
    nested = [chosen(select_shots(train, k, seed=1)) for k in (1, 2, 4)]
    assert nested[0] < nested[1] < nested[2]
    # The experiment is the same, so tables may average over its seeds.
    one, two = (select_shots(train, 4, seed) for seed in (1, 2))
    assert one.fingerprint == two.fingerprint != train.fingerprint
    assert one.fingerprint != select_shots(train, 2, 1).fingerprint


def test_other_classes_change_nothing(train):
    of_all = {n for n in chosen(select_shots(train, 3, 1)) if "/ant/" in n or "/bee/" in n}
    assert chosen(select_shots(select_classes(train, "ant,bee"), 3, 1)) == of_all


def test_arrays_have_no_paths():
    images = np.zeros((20, 4, 4, 3), np.uint8)
    source = from_arrays(images, np.arange(20) % 4, classes=["a", "b", "c", "d"])
    some = select_shots(source, 2, seed=0)
    assert some.counts().tolist() == [2, 2, 2, 2]


def test_base_and_new_are_halves_by_label(train):
    base, new = (select_classes(train, which) for which in ("base", "new"))
    assert base.classes == ("ant", "bee", "cow") and new.classes == ("dog", "eel")
    assert sorted(set(new.labels())) == [0, 1] and len(base) + len(new) == len(train)
    assert half(new, "base") == [0] and half(new, "new") == [1]


def test_a_class_called_new(tmp_path):
    for name in ("new", "old"):
        photo(tmp_path / "train" / name / "0.jpg", (9, 9, 9), 0)
    source = open_source(f"folder:{tmp_path}", "train")
    with pytest.raises(UserError, match="has a class of this name.*in a file"):
        select_classes(source, "new")
    assert select_classes(source, "base").classes == ("new",)
    assert select_classes(source, ["new"]).classes == ("new",)  # a list holds names


def test_halves_need_all_classes(train):
    train.complete = False  # as of a folder without its training images
    with pytest.raises(UserError, match="counts all classes.*are not there"):
        select_classes(train, "base")


def test_several_classes_an_image(train):
    train.multilabel = True
    with pytest.raises(UserError, match="data.shots cannot be used"):
        select_shots(train, 2, 0)


def test_a_number_that_cannot_be(train):
    with pytest.raises(UserError, match="data.shots is -1"):
        select_shots(train, -1, 0)
