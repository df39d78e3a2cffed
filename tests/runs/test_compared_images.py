"""An evaluation is compared with the recorded one only if it is of the same images."""

import logging

import pytest

from vpjax.runs.summary import log_comparison

SPLIT = {"name": "folder:photos[test]", "images": 6, "content": "ab"}
RESULT = {"metric": "accuracy", "step": 6, "test_accuracy": 100.0, "data": {"test": SPLIT}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "equal to the recorded test accuracy"),
        ({"name": "folder:/moved/photos[test]"}, "equal to the recorded test accuracy"),
        ({"images": 7}, "6 images there, 7 now"),  # splits.csv was edited
        ({"content": "cd"}, "other images or labels, though their names may be the same"),
    ],
)
def test_what_is_compared(caplog, change, expected):
    caplog.set_level(logging.INFO, logger="vpjax")
    log_comparison(RESULT | {"data": {"test": SPLIT | change}}, RESULT)
    assert expected in caplog.text
    assert ("equal to" in caplog.text) == expected.startswith("equal")


def test_results_of_earlier_versions_are_compared(caplog):
    caplog.set_level(logging.INFO, logger="vpjax")
    before = RESULT | {"data": {"test": {"name": "a", "images": 6}}}
    log_comparison(RESULT, before)
    assert "equal to the recorded test accuracy" in caplog.text
