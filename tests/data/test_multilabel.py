"""Several classes an image, from stored ids to batches of zeros and ones."""

import itertools
import shutil

import numpy as np
import pytest

from tests.data.conftest import Memory
from tests.data.fake import as_tfrecord, fake_tfds
from vpjax.core.errors import UserError
from vpjax.data import Loader, loader, open_source, preset, tfds
from vpjax.data.records import Record
from vpjax.data.source import Source

IDS = [(0,), (), (2, 1), (0, 1, 2), (2,), (1, 1)]
ROWS = [[1, 0, 0], [0, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1], [0, 1, 0]]
SHAPE = (4, 4, 3)


def tagged(ids=IDS, shape=SHAPE):
    """Image i holds the number i."""
    records = [Record(np.full(SHAPE, i, np.uint8), labels) for i, labels in enumerate(ids)]
    return Source("tagged:1.0.0[train]", "abc", Memory(records), shape, multilabel=True)


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc")
    fake_tfds(folder, "voc/2007", {"train": 12, "validation": 9})
    return folder


def test_labels_are_zeros_and_ones():
    source = tagged()
    assert source.label_shape == (3,) and source.num_classes == 3
    assert source.labels().tolist() == ROWS
    assert [e["label"].tolist() for e in source.__getitems__([3, 0])] == [ROWS[3], ROWS[0]]
    assert source.counts().tolist() == [2, 3, 3]
    source.check(3)


@pytest.mark.parametrize("memory", [True, False])
def test_batches(monkeypatch, memory):
    """Example i comes with row i, whether images are kept or read as training goes."""
    if not memory:
        monkeypatch.setattr(loader, "MEMORY", 0)
    batches = list(itertools.islice(Loader(tagged(), 4, preset("digits"), 4).batches(), 3))
    for batch in batches:
        assert batch["label"].shape == (4, 3) and batch["label"].dtype == np.int32
        assert batch["label"].tolist() == [ROWS[i] for i in batch["image"][:, 0, 0, 0]]


def test_the_last_batch_of_evaluation_is_padded_with_zeros():
    *_, last = Loader(tagged(), 4, preset("digits"), 4, train=False).batches()
    assert last["mask"].tolist() == [True, True, False, False]
    assert last["label"].tolist() == [*ROWS[4:], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_is_named(monkeypatch, label):
    wrong = tagged([*IDS, (0, label)])
    for read in (wrong.labels, lambda: wrong[6], lambda: wrong.check(3)):
        with pytest.raises(UserError, match=rf"example 6 has label {label}.*0\.\.2"):
            read()
    with pytest.raises(UserError, match=f"example 6 has label {label}"):
        Loader(wrong, 4, preset("digits"), 4)
    monkeypatch.setattr(loader, "MEMORY", 0)
    with pytest.raises(UserError, match=f"example 6 has label {label}"):
        list(itertools.islice(Loader(wrong, 7, preset("digits"), 4).batches(), 1))


def test_a_split_without_labels_is_refused():
    with pytest.raises(UserError, match=r"tagged:1.0.0\[train\]: no example has a label"):
        Loader(tagged([()] * 5), 4, preset("digits"), 4, train=False)


def test_fingerprint_sees_labels_but_not_their_order():
    base = tagged().fingerprint
    assert base == tagged([(0,), (), (1, 2), (2, 0, 1), (2,), (1, 1)]).fingerprint
    assert base != tagged([(0,), (), (1, 2), (2, 0), (2,), (1, 1)]).fingerprint


def test_stored_sets(voc, tmp_path):
    source = open_source("voc/2007", "train", voc)
    assert source.multilabel and source.num_classes == 20 and source.classes[0] == "aeroplane"
    assert sorted(source.labels().sum(1)) == sorted(i % 4 for i in range(12))
    assert source.records.__getitems__([0])[0].file.startswith("file-")
    folder = tfds.find("voc/2007", voc)
    assert tfds.read(folder, "train", label="labels_no_difficult").multilabel
    shutil.copytree(voc, tmp_path / "data")
    as_tfrecord(tfds.find("voc/2007", tmp_path / "data"))
    again = open_source("voc/2007", "train", tmp_path / "data")
    assert (again.labels() == source.labels()).all()
    assert again.fingerprint == source.fingerprint


def test_features_that_are_no_classes(voc):
    with pytest.raises(UserError, match="classes of label 'objects' are not in the data"):
        tfds.read(tfds.find("voc/2007", voc), "train", label="objects")
