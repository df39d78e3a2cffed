"""Tables are Markdown."""

import pytest

from vpjax.core.table import table


def test_table():
    text = table(["method", "%"], [["VPT|deep", "93.10"], ["linear", "7.5"]])
    assert text.splitlines() == [
        "| method    |     % |",
        "| :-------- | ----: |",
        "| VPT\\|deep | 93.10 |",
        "| linear    |   7.5 |",
    ]
    assert table(["a", "b", "c"], [], align="lc").splitlines()[1] == "| :-- | :-: | :-: |"


def test_table_errors():
    with pytest.raises(ValueError, match="2 cells; the header has 1"):
        table(["a"], [["1", "2"]])
    with pytest.raises(ValueError, match="expected letters"):
        table(["a"], [], align="x")
