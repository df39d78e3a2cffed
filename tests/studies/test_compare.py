"""Comparisons: one table of labelled runs."""

import csv
import json

import numpy as np
import pytest

from configs import digits
from tests.helpers import runs
from vpjax.core.errors import UserError
from vpjax.runs.workdir import read_result
from vpjax.studies import compare
from vpjax.train.signals import Stopped


def short():
    """The config of a comparison of two methods and two seeds, a few steps each."""
    config = digits.get_config()
    config.train.update(steps=3, eval_every=1.0, log_every=1)
    config.study.cells, config.study.seeds, config.curves = ("vpt_deep", "linear"), (0, 1), False
    config.study.colours.linear = "#EE7733"
    return config


def test_a_whole_comparison(tmp_path):
    rows = compare.compare(short(), tmp_path)
    assert [r["label"] for r in rows] == ["linear", "vpt_deep"]  # the fewest parameters first
    assert json.loads((tmp_path / "comparison.json").read_text()) == rows
    for row in rows:
        results = [runs.result(tmp_path / row["label"] / f"seed{seed}") for seed in (0, 1)]
        found = [r["test_accuracy"] for r in results]
        assert (row["metric"], row["mean"]) == ("accuracy", pytest.approx(np.mean(found)))
        assert row["std"] == pytest.approx(np.std(found)) and row["seeds"] == 2
        assert row["trainable"] == results[0]["trainable"] and row["images"] == 366
    with open(tmp_path / "comparison.csv") as file:
        assert [r["label"] for r in csv.DictReader(file)] == ["linear", "vpt_deep"]
    text = (tmp_path / "comparison.md").read_text()
    assert text == compare.as_table(rows) + "\n" and "accuracy (%)" in text
    for name in ("comparison.png", "comparison_curves.png"):
        assert (tmp_path / name).stat().st_size > 1000
    written = (tmp_path / "linear" / "seed0" / "result.json").stat().st_mtime_ns
    assert compare.compare(short(), tmp_path) == rows  # nothing is run again
    assert (tmp_path / "linear" / "seed0" / "result.json").stat().st_mtime_ns == written
    assert read_result(tmp_path / "vpt_shallow" / "seed0") is None


def test_a_comparison_that_is_stopped_leaves_its_table(tmp_path, monkeypatch, caplog):
    result = {"metric": "accuracy", "test_accuracy": 40.0, "test_count": 9, "percent": 1.0}
    result |= {"seconds": 1.0, "trainable": 7, "data": {"val": "v", "test": "t"}}
    left = iter((result, result, result))

    def train(config, folder):
        if (found := next(left, None)) is None:
            raise Stopped("stopped at step 3 of 9", 15)
        return found

    monkeypatch.setattr(compare, "train", train)
    caplog.set_level("INFO", logger="vpjax")
    with pytest.raises(Stopped):
        compare.compare(short(), tmp_path)
    lines = (tmp_path / "comparison.md").read_text().splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")][-1] == "seeds"
    assert [line.strip("| ").split()[-1] for line in lines[2:]] == ["2", "1"]
    assert "± 0.0 " in lines[2] and "±" not in lines[3]
    assert "of the runs that are done" in caplog.text
    monkeypatch.setattr(compare, "train", lambda config, folder: 1 / 0)
    (tmp_path / "comparison.md").unlink()
    with pytest.raises(ZeroDivisionError):  # nothing is done, and nothing is written
        compare.compare(short(), tmp_path)
    assert not (tmp_path / "comparison.md").exists()


def row(label, mean, percent, **more):
    return {"label": label, "metric": "accuracy", "mean": mean, "std": 0.5, "percent": percent} | {
        "trainable": 10,
        "seconds": 1.0,
        **more,
    }


def test_the_best_is_the_best_of_those_that_train_little():
    rows = [row("linear", 60.0, 0.1), row("vpt", 70.0, 1.0), row("full", 80.0, 100.0)]
    assert compare.best_row(rows)["label"] == "vpt"
    assert compare.best_row(rows[2:])["label"] == "full"


def test_results_of_several_classes_an_image_are_map():
    result = {"metric": "map", "test_map": 40.0, "test_count": 9, "trainable": 1, "percent": 1.0}
    result |= {"seconds": 1.0, "data": {"val": "v", "test": "t"}, "best_val_map": 50.0}
    found = compare.summary("vpt", [result])
    assert (found["metric"], found["mean"]) == ("map", 40.0) and "best" not in found
    assert "mAP (%)" in compare.as_table([found])
    result["data"]["val"] = "t"
    assert compare.summary("vpt", [result])["best"] == 50.0


def test_mistakes(tmp_path):
    config = short()
    config.study.cells = ("vpt_depe",)
    with pytest.raises(UserError, match="Did you mean 'vpt_deep'"):
        compare.compare(config, tmp_path)
    config.study.seeds = ()
    with pytest.raises(UserError, match="at least one seed"):
        compare.compare(config, tmp_path)
