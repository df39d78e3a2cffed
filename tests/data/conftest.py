"""Data sets on disk, written once for the whole test run."""

import numpy as np
import pytest

from tests.data.fake import fake_tfds
from vpjax.data.records import Record
from vpjax.data.source import Source


@pytest.fixture(autouse=True)
def caches(tmp_path_factory, monkeypatch):
    """Keeps the user's folders out of the tests."""
    root = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("VPJAX_CACHE", str(root / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(root / "no-data"))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder with four prepared data sets."""
    folder = tmp_path_factory.mktemp("tfds")
    fake_tfds(folder, "cifar10", {"train": 40, "test": 16}, shards=3)
    fake_tfds(folder, "mnist", {"train": 24, "test": 10})
    fake_tfds(folder, "oxford_flowers102", {"train": 12, "validation": 8, "test": 10})
    fake_tfds(folder, "eurosat/rgb", {"train": 20})
    return folder


class Memory:
    """Records that lie in a list."""

    def __init__(self, records):
        self.records = records

    def __len__(self):
        return len(self.records)

    def __getitems__(self, indices):
        return [self.records[i] for i in indices]


def numbered(n, shape=(4, 4, 3), classes=10, name="numbers:1.0.0[train]"):
    """A source whose image i holds the number i, so that batches show what was read."""
    records = [Record(np.full(shape, i % 256, np.uint8), i % classes, f"{i}.png") for i in range(n)]
    return Source(name, [str(c) for c in range(classes)], Memory(records), shape)
