"""The soak tells what grows from what does not; the soak itself takes hours, see its module."""

import numpy as np
import pytest

from tests.faults import soak


def counts(memory=0.0, files=0.0, cycles=60):
    """Cycles of 50 saves with noise, which grow by so many MB a save and files a cycle."""
    rng = np.random.default_rng(0)
    return [
        soak.Count(50 * i, {"memory, MB": 400 + 50 * memory * i + rng.normal(), "files": files * i})
        for i in range(1, cycles)
    ]


def test_what_is_flat_passes():
    assert not soak.too_much(counts())
    assert not soak.too_much(counts(memory=0.005, files=0.01))


@pytest.mark.parametrize(
    ("grows", "text"),
    [({"memory": 0.03}, "memory grows by 0.03"), ({"files": 0.2}, "files: 9 more")],
)
def test_what_grows_is_named(grows, text):
    found = soak.too_much(counts(**grows))
    assert len(found) == 1 and text in found[0], found


def test_warm_up_is_no_growth():
    warm = [
        soak.Count(c.saves, c.held | {"files": 5.0 * min(i, soak.WARM_UP)})
        for i, c in enumerate(counts())
    ]
    assert not soak.too_much(warm)


def test_the_table_has_a_line_for_each_thing():
    table = soak.as_table(counts(memory=0.03))
    assert "0.03" in table and "| files" in table and "| saves" in table


def test_a_process_counts_what_it_holds(tmp_path):
    where = soak.Folders(*(tmp_path / name for name in "abc"))
    before = soak.held(where)
    (tmp_path / "b").mkdir()
    with (tmp_path / "b" / "file").open("w"):
        after = soak.held(where)
    assert after["open files"] == before["open files"] + 1
    assert (before["cached files"], after["cached files"]) == (0, 1)
