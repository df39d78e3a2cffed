"""predictions.csv and per_class.csv, and which images are mistakes."""

import csv
import os

import numpy as np
import pytest

from vpjax.runs import mistakes
from vpjax.runs.split_files import write_per_class, write_predictions
from vpjax.train.evaluate import Predictions, SeveralPredictions

CLASSES = ("cat", "dog", "owl")
SHARES = np.array(
    [
        [0.7, 0.2, 0.1],
        [0.1, 0.8, 0.1],  # a cat, surely taken for a dog
        [0.5, 0.45, 0.05],  # a dog, narrowly taken for a cat
        [0.0, 0.1, 0.9],
        [0.35, 0.6, 0.05],  # a cat, taken for a dog
    ],
    np.float32,
)
LABELS = np.array([0, 0, 1, 2, 0])


def said(shares=SHARES, labels=LABELS, **more):
    top = np.argsort(-shares, axis=1, kind="stable")
    best = np.take_along_axis(shares, top, 1)
    own = shares[np.arange(len(labels)), labels]
    return Predictions(labels, top[:, 0], best[:, 0] - best[:, 1], top, best, own, **more)


def several():
    labels = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]])
    shares = np.array([[0.9, 0.2, 0.6], [0.1, 0.3, 0.8], [0.4, 0.45, 0.1]], np.float32)
    return SeveralPredictions(labels, shares)


def rows(path):
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def test_a_line_for_each_image(tmp_path):
    files = [f"test/{i}.png" for i in range(5)]
    found = said(temperature=2.0, tempered=np.full(5, 0.4))
    write_predictions(tmp_path / "p.csv", found, CLASSES, files)
    lines = rows(tmp_path / "p.csv")
    assert [line["file"] for line in lines] == files
    assert [line["true"] for line in lines] == ["cat", "cat", "dog", "owl", "cat"]
    assert [line["predicted"] for line in lines] == ["cat", "dog", "cat", "owl", "dog"]
    assert [line["correct"] for line in lines] == ["1", "0", "0", "1", "0"]
    second = lines[1]
    assert float(second["probability"]) == pytest.approx(0.8)
    assert float(second["probability_of_true"]) == pytest.approx(0.1)
    assert second["tempered_probability"] == "0.400000"
    assert (lines[2]["class_2"], lines[2]["probability_2"]) == ("dog", "0.450000")
    assert (lines[2]["class_3"], lines[2]["true_label"]) == ("owl", "1")


def test_files_without_a_name_and_names_of_any_bytes(tmp_path):
    write_predictions(tmp_path / "p.csv", said(), CLASSES, None)
    lines = rows(tmp_path / "p.csv")
    assert [line["example"] for line in lines] == list("01234")
    assert {line["file"] for line in lines} == {""} and "tempered_probability" not in lines[0]
    names = [os.fsdecode(b"caf\xe9.png"), "a,b.png", 'say "x".png', "ü.png", "new\nline.png"]
    write_predictions(tmp_path / "p.csv", said(), CLASSES, names)
    assert [line["file"] for line in rows(tmp_path / "p.csv")] == names
    assert b"caf\xe9.png" in (tmp_path / "p.csv").read_bytes()


def test_classes_with_their_intervals(tmp_path):
    labels = LABELS.copy()
    write_per_class(tmp_path / "c.csv", said(labels=labels), (*CLASSES, "cow"), np.arange(4))
    lines = rows(tmp_path / "c.csv")
    assert [line["images"] for line in lines] == ["3", "1", "1", "0"]
    assert [line["accuracy"] for line in lines] == ["33.3333", "0.0000", "100.0000", ""]
    assert [line["accuracy_high"] for line in lines] == ["79.2340", "79.3451", "100.0000", ""]
    assert lines[0]["accuracy_low"] == "6.1492" and lines[3]["accuracy_low"] == ""
    assert [line["training_images"] for line in lines] == list("0123")


def test_images_of_several_classes(tmp_path):
    write_predictions(tmp_path / "p.csv", several(), CLASSES, None)
    lines = rows(tmp_path / "p.csv")
    assert [line["true"] for line in lines] == ["cat; dog", "owl", ""]
    assert [line["predicted"] for line in lines] == ["cat; owl", "owl", ""]
    assert [line["correct"] for line in lines] == ["0", "1", "1"]
    assert (lines[0]["class_1"], lines[0]["probability_2"]) == ("cat", "0.600000")
    write_per_class(tmp_path / "c.csv", several(), CLASSES, None)
    lines = rows(tmp_path / "c.csv")
    assert [line["recall"] for line in lines] == ["100.0000", "0.0000", "100.0000"]
    assert [line["precision"] for line in lines] == ["100.0000", "", "50.0000"]
    assert [line["average_precision"] for line in lines] == ["100.0000", "33.3333", "100.0000"]
    assert float(lines[0]["recall_low"]) == pytest.approx(20.655, abs=0.01)


def test_which_are_the_worst():
    assert mistakes.worst(said(), 2).tolist() == [1, 4]
    assert mistakes.worst(said(), 9).tolist() == [1, 4, 2]
    assert mistakes.least_sure(said(), 2).tolist() == [2, 4]
    (pair,) = mistakes.confused(said(), 3)
    assert (pair.first, pair.second, pair.there, pair.back) == (0, 1, 2, 1)
    assert pair.images.tolist() == [1, 4, 2]
    right = said(np.eye(3, dtype=np.float32), np.arange(3))
    assert not mistakes.confused(right, 3) and not len(mistakes.worst(right, 3))


def test_the_pair_is_named_by_its_worse_direction():
    shares = np.eye(3, dtype=np.float32)[[1, 0, 0, 2]]
    (first, *_) = mistakes.confused(said(shares, np.array([0, 1, 1, 2])), 3)
    assert (first.first, first.second, first.there, first.back) == (1, 0, 2, 1)


def test_which_are_the_worst_of_several():
    alarms = mistakes.false_alarms(several(), 9)
    assert [(a.image, a.label) for a in alarms] == [(0, 2), (2, 1), (1, 1)]
    assert alarms[0].share == pytest.approx(0.6)
    found = mistakes.missed(several(), 9)
    assert [(m.image, m.label) for m in found] == [(0, 1), (1, 2)]
    assert found[0].share == pytest.approx(0.2)
