"""Every kind of fault, a few trials each; `python -m tests.faults` tries 200."""

import pytest

from tests.faults import mutate, table
from tests.faults.kinds import load
from vpjax.core.errors import UserError

load()
TRIALS = 25
# A failed restore leaves tasks of the storage library that complain when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize("name", table.KINDS)
def test_nothing_is_lost(name):
    row = table.run(name, TRIALS)
    assert row.good, table.as_table([row])
    assert row.trials >= 1


def test_damages_are_the_same_for_the_same_seed():
    data = b'{"a": [1, 2, {"b": "text"}]}'
    assert [mutate.damaged(data, seed) for seed in range(60)] == [
        mutate.damaged(data, seed) for seed in range(60)
    ]
    assert len({mutate.damaged(data, seed) for seed in range(60)}) > 40


def test_the_table_sees_what_is_lost(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('{"a": 1, "b": 2}')

    def quiet():
        raise UserError("something is wrong")  # of no file

    def loud():
        return int(file.read_text()[6])

    for read, word in ((quiet, "without the file"), (loud, "Error"), (file.read_bytes, "silence")):
        calls = iter([True])

        def reader(read=read, calls=calls):
            return 0 if read is quiet and next(calls, False) else read()

        row = table._damages("x", table.Case(file, reader, same=True), range(20))
        assert not row.good and any(word in what for what in row.lost), row
        assert "| x" in table.as_table([row])
