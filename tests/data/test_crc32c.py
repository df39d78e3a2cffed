"""Checksums of TFRecord files, against the definition, byte by byte."""

import random
import struct

import numpy as np
import pytest

from tests.data import fake
from vpjax.core.errors import UserError
from vpjax.data import crc32c, tfrecord


def test_known_values():
    found = crc32c.crc32c([b"123456789", b"", bytes(32), b"\xff" * 32, bytes(range(32))])
    assert [hex(int(v)) for v in found] == [
        "0xe3069283",
        "0x0",
        "0x8a9136aa",
        "0x62a8ab43",
        "0x46dd794e",
    ]


def test_all_lengths_agree_with_the_definition():
    rng = np.random.default_rng(0)
    lengths = [*range(12), 63, 64, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 3000, 9000]
    strings = [rng.bytes(n) for n in lengths]
    assert crc32c.masked(strings).tolist() == [fake.masked(s) for s in strings]
    assert crc32c.masked([]).tolist() == []


class Piece:
    def __init__(self, filename, count):
        self.filename, self.examples_in_shard, self.skip, self.take = filename, count, 0, count


RECORDS = [bytes([i]) * (5 + 40 * i) for i in range(9)]


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "train.tfrecord"
    path.write_bytes(b"".join(fake.frame(r) for r in RECORDS))
    return path


def read(file):
    return tfrecord.TFRecords([Piece(file, 9)]).__getitems__(range(9))


def test_every_flipped_bit_is_noticed(file):
    good, rng = file.read_bytes(), random.Random(0)
    assert read(file) == RECORDS
    for place in rng.sample(range(len(good)), 60):
        file.write_bytes(bytes(b ^ (1 << 3) * (i == place) for i, b in enumerate(good)))
        with pytest.raises((UserError, ValueError), match=r"checksum|cut short|holds"):
            read(file)


def test_a_file_that_shrinks_while_it_is_read(file):
    records = tfrecord.TFRecords([Piece(file, 9)])
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match="has become shorter"):
        records[8]


def test_a_file_without_checksums_is_read(file):
    none = b"\0" * 4
    file.write_bytes(b"".join(struct.pack("<Q", len(r)) + none + r + none for r in RECORDS))
    assert read(file) == RECORDS


@pytest.mark.parametrize("damage", ["empty", "cut", "bits", "text"])
def test_a_damaged_index_is_made_anew(file, tmp_path, damage):
    want = tfrecord.index(file).tolist()
    (kept,) = (tmp_path / "cache" / "tfrecord").iterdir()
    good = kept.read_bytes()
    rng = random.Random(1)
    flips = [
        bytes(b ^ (i == k) for i, b in enumerate(good)) for k in rng.sample(range(len(good)), 20)
    ]
    bad = {"empty": [b""], "cut": [good[:-8], good[:40]], "bits": flips, "text": [b"x" * len(good)]}
    for content in bad[damage]:
        kept.write_bytes(content)
        assert tfrecord.index(file).tolist() == want
        assert kept.read_bytes() == good
