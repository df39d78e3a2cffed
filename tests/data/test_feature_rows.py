"""Kept features that are damaged: computed again from there, never taken as they are."""

import json

import numpy as np
import pytest

from vpjax.data.features import filling, read_rows

FACTS = {"data": "digits", "backbone": "abc", "preset": {"mean": [0.5]}}
FEATURES = np.arange(40 * 3, dtype=np.float32).reshape(40, 3)
LABELS = np.arange(40, dtype=np.int32)
SHAPES = [FEATURES.shape, LABELS.shape]


def fill(folder, upto=40, every=10):
    """Fills a folder as a run does; returns from which row on."""
    with filling(folder, FACTS, SHAPES) as store:
        begin = store.done
        for start in range(begin, upto, every):
            rows = slice(start, start + every)
            store.write(start, FEATURES[rows], LABELS[rows])
            store.save(start + every)
        assert store.complete == (upto == 40)
    return begin


def intact(folder):
    rows = read_rows(folder)
    return (rows.features == FEATURES).all() and (rows.labels == LABELS).all()


@pytest.fixture
def folder(tmp_path):
    assert fill(tmp_path / "rows", upto=20) == 0
    assert fill(tmp_path / "rows") == 20
    assert fill(tmp_path / "rows") == 40  # nothing is to be done
    assert intact(tmp_path / "rows")
    return tmp_path / "rows"


@pytest.mark.parametrize(("row", "first"), [(0, 0), (9, 0), (10, 10), (25, 20), (39, 30)])
@pytest.mark.parametrize(("file", "size"), [("features.npy", 12), ("labels.npy", 4)])
def test_a_flipped_bit_is_noticed_and_the_rows_computed_again(
    folder, file, size, row, first, caplog
):
    content = bytearray((folder / file).read_bytes())
    content[128 + row * size] ^= 2
    (folder / file).write_bytes(content)
    assert not intact(folder)
    assert fill(folder) == first
    assert intact(folder) and f"damaged from row {first} on" in caplog.text
    assert fill(folder) == 40


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def header(path):
    path.write_bytes(path.read_bytes().replace(b"(40,", b"(90,"))


@pytest.mark.parametrize("file", ["features.npy", "labels.npy"])
@pytest.mark.parametrize(
    "damage",
    [
        cut,
        header,
        lambda p: p.unlink(),
        lambda p: p.write_bytes(b""),
        lambda p: p.write_bytes(b"x"),
    ],
)
def test_a_damaged_array_is_computed_again(folder, file, damage, caplog):
    damage(folder / file)
    assert fill(folder) == (30 if damage is cut else 0)
    assert intact(folder) and "damaged" in caplog.text


META = [
    "",
    "{",
    "[]",
    "{}",
    "null",
    '{"done": 40}',
    '{"sums": 3}',
    '{"sums": [[40, "0"]]}',
    "\0" * 9,
]


@pytest.mark.parametrize("text", META)
def test_damaged_facts_are_no_facts(folder, text, caplog):
    (folder / "meta.json").write_text(text)
    assert fill(folder) == 0
    assert intact(folder) and "damaged" in caplog.text


@pytest.mark.parametrize(
    "change",
    [{"data": "other"}, {"sums": [[10, "0"]]}, {"sums": [[99, "0"]]}, {"sums": [[-1, "0"]]}],
)
def test_facts_that_do_not_fit(folder, change):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | change))
    assert fill(folder) == 0
    assert intact(folder)


def test_half_written_facts_are_cleaned(folder):
    (folder / ".meta.json.7.new").write_text("{")
    fill(folder)
    assert not list(folder.glob(".*.new"))


def test_who_has_the_old_rows_open_keeps_them(folder):
    """Mapped files that become shorter end a process with SIGBUS."""
    rows = read_rows(folder)
    (folder / "meta.json").write_text("{}")
    with filling(folder, FACTS, SHAPES):
        assert (np.asarray(rows.features) == FEATURES).all()
