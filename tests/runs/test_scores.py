"""What evaluation says of a split beyond accuracy; levels and groups: tests/test_taxonomy.py."""

import csv
import json

import numpy as np
import pytest

from tests.helpers.runs import config
from vpjax.data.records import Record
from vpjax.data.source import Source
from vpjax.runs import classes, scores
from vpjax.runs.experiment import prepare
from vpjax.train.evaluate import Predictions, margins


class Known:
    """Records whose labels are known; reading one is an error."""

    def __init__(self, counts):
        self.labels = np.repeat(np.arange(len(counts)), counts)

    def __len__(self):
        return len(self.labels)

    def __getitems__(self, indices):
        raise AssertionError("an example was read")


class Read(Known):
    """Records whose labels are found by reading."""

    def __init__(self, counts):
        self._own = np.repeat(np.arange(len(counts)), counts)

    def __len__(self):
        return len(self._own)

    def __getitems__(self, indices):
        return [Record(b"", int(self._own[i])) for i in indices]


def source(*counts, records=Known):
    names = [f"class {i}" for i in range(len(counts))]
    return Source("made up", names, records(counts), (None, None, 3))


def answers(labels, predictions):
    shares = np.full(len(labels), 0.25, np.float32)
    labels, predictions = np.array(labels), np.array(predictions)
    best = predictions[:, None], np.full((len(labels), 1), 0.6, np.float32)
    return Predictions(labels, predictions, shares, *best, shares)


def detailed(said, train):
    return scores.detailed_metrics(said, train.metadata, classes.training_counts(train))


def test_groups_are_there_where_classes_differ():
    said = answers([0, 0, 1, 2], [0, 1, 1, 2])
    metadata = source(1, 1, 1).metadata
    found = scores.detailed_metrics(said, metadata, (30, 40, 50))
    assert set(found) == {"margin", "precision_macro", "recall_macro", "f1_macro", "ece"}
    assert found["ece"] == pytest.approx(15)  # 60 % sure, 75 % right
    assert (found["margin"], found["recall_macro"]) == (0.25, pytest.approx(250 / 3))
    found = scores.detailed_metrics(said, metadata, (30, 40, 10))
    assert (found["medium"], found["few"]) == (pytest.approx(200 / 3), 100.0)
    assert "many" not in found and found["many_classes"] == 0


def test_labels_are_not_read_from_millions_of_examples(monkeypatch):
    monkeypatch.setattr(classes, "READ", 10)
    assert classes.training_counts(source(3, 8)).tolist() == [3, 8]
    assert classes.training_counts(source(3, 8, records=Read)) is None
    assert classes.training_counts(source(3, 7, records=Read)).tolist() == [3, 7]


def test_margins():
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    first, second = np.sort(shares)[:, :-3:-1].T
    np.testing.assert_allclose(margins(logits), first - second, rtol=1e-5)
    np.testing.assert_allclose(margins(714 * logits[:1] + 1e4), [1.0], rtol=1e-6)
    np.testing.assert_allclose(margins(logits[:, :1]), 1)


def test_what_every_run_gets(tmp_path):
    experiment = prepare(config("linear"))
    found, said = scores.score(experiment, experiment.state, ["val", "test"], tmp_path, step=0)
    written = json.loads((tmp_path / "evaluation.json").read_text())
    calibration = written.pop("calibration")
    facts = {"step": 0, "margin_of": "softmax of logits", "predictions_of": "test"}
    assert written == found | facts
    assert calibration["found_on"] == experiment.sources["val"].name
    assert calibration["temperature"] is None or calibration["temperature"] > 0
    assert calibration["nll"] == pytest.approx(found["val"]["loss"], rel=1e-5)
    assert calibration["test"]["ece"] == found["test"]["ece"]
    text = scores.as_table("test", found["test"], "softmax of logits")
    assert f"| accuracy | {found['test']['accuracy']:.2f} %" in " ".join(text.split())
    assert "genus" not in text and "shot" not in text and "margin (softmax of logits)" in text
    with open(tmp_path / "per_class.csv") as file:
        assert sum(int(r["images"]) for r in csv.DictReader(file)) == found["test"]["count"]
    with open(tmp_path / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(said.labels) == found["test"]["count"]
    right = np.mean([row["correct"] == "1" for row in rows])
    assert 100 * right == pytest.approx(found["test"]["accuracy"])


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    experiment = prepare(config("linear"))
    with caplog.at_level("WARNING", logger="vpjax"):
        found, _ = scores.score(experiment, experiment.state, ["val"], tmp_path / "nowhere")
    assert found["val"]["count"] and "cannot be written" in caplog.text
