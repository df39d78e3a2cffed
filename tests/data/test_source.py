"""Sources: reading, labels, checks, fingerprints."""

import numpy as np
import pytest

from tests.data.conftest import Memory, numbered
from vpjax.core.errors import UserError
from vpjax.data.records import Record
from vpjax.data.source import Source


def test_reading():
    source = numbered(2500)
    assert len(source) == 2500 and source.num_classes == 10
    assert source[7]["label"] == 7 and source[7]["image"].dtype == np.uint8
    assert source[-1]["label"] == 9
    assert [e["label"] for e in source.__getitems__([3, 1, 2])] == [3, 1, 2]
    assert source.__getitems__([]) == []
    assert (source.labels() == np.arange(2500) % 10).all()
    with pytest.raises(IndexError, match="no example 2500"):
        source[2500]


def test_read_all_equals_reading_one_by_one():
    source = numbered(2500)
    array = source.read_all(threads=2)
    assert (array[:, 0, 0, 0] == np.arange(2500) % 256).all()
    assert (source.labels() == np.arange(2500) % 10).all()


def test_labels_are_checked():
    numbered(10).check(10)
    with pytest.raises(UserError, match=r"numbers:1.0.0\[train\]: example 7 has label 7.*0..6"):
        numbered(10).check(7)
    unlabelled = Source(
        "s[test]", ["a"], Memory([Record(np.zeros((1, 1, 1), np.uint8), -1)]), (1, 1, 1)
    )
    with pytest.raises(UserError, match="example 0 has label -1.*without a label"):
        unlabelled.check(1)


def test_empty_split():
    with pytest.raises(UserError, match=r"numbers:1.0.0\[train\] has no examples"):
        numbered(0).check(10)


def test_fingerprint_sees_name_length_images_and_labels():
    base = numbered(20).fingerprint
    assert base == numbered(20).fingerprint
    others = [
        numbered(21),
        numbered(20, name="other"),
        numbered(20, classes=9),
        numbered(20, shape=(4, 5, 3)),
    ]
    assert len({base, *(other.fingerprint for other in others)}) == 5
