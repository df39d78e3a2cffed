"""Accuracy by level and by shots; the reference's numbers are a case of tests/golden."""

import numpy as np
import pytest

from vpjax.train import taxonomy

TREE = [
    {"genus": "morus", "family": "moraceae", "order": "rosales"},  # mulberries
    {"genus": "morus", "family": "sulidae", "order": "suliformes"},  # gannets
    {"genus": "sula", "family": "sulidae", "order": "suliformes"},
    {"genus": "sula", "family": "sulidae", "order": "suliformes"},
]


def test_taxa_of_one_name_are_told_apart():
    genus, names = taxonomy.taxa(TREE, "genus")
    assert len(set(genus)) == 3 and genus[2] == genus[3] and genus[0] != genus[1]
    assert [names[i] for i in genus] == ["morus", "morus", "sula", "sula"]
    family, names = taxonomy.taxa(TREE, "family")
    assert [names[i] for i in family] == ["moraceae", "sulidae", "sulidae", "sulidae"]


def test_levels():
    labels = np.array([0, 1, 2, 3])
    predictions = np.array([1, 2, 3, 3])
    found = taxonomy.evaluation_report(predictions, labels, TREE)
    assert found == {
        "accuracy": 25.0,
        "balanced": 25.0,
        "genus": 50.0,
        "family": 75.0,
        "order": 75.0,
        "count": 4,
    }


def test_unknown_levels_are_left_out():
    partly = [{"genus": "a"}, {"genus": "b", "family": "f"}]
    found = taxonomy.by_level(np.array([0, 1]), np.array([0, 0]), partly)
    assert found == {"genus": 50.0}
    assert taxonomy.by_level(np.array([0]), np.array([0]), [{"name": "x"}]) == {}


def test_shots_at_their_limits():
    counts = np.array([101, 100, 20, 19, 0, 500])
    labels = np.array([0, 0, 1, 2, 3, 3, 3])
    predictions = np.array([0, 1, 1, 0, 3, 3, 0])
    found = taxonomy.by_shots(predictions, labels, counts)
    assert found["many"] == 50.0 and found["medium"] == 50.0
    assert found["few"] == pytest.approx(200 / 3)
    assert [found[f"{g}_images"] for g in taxonomy.SHOTS] == [2, 2, 3]
    assert [found[f"{g}_classes"] for g in taxonomy.SHOTS] == [2, 2, 2]
    only = taxonomy.by_shots(np.array([0]), np.array([0]), counts)
    assert "few" not in only and only["few_images"] == 0 and only["few_classes"] == 2


def test_balanced_counts_classes_that_occur():
    labels = np.array([0, 0, 0, 2])
    assert taxonomy.balanced(np.array([0, 0, 1, 2]), labels) == pytest.approx(100 * (2 / 3 + 1) / 2)


def test_margin():
    scores = np.random.default_rng(0).normal(size=(20, 7))
    e = np.exp(3 * scores)
    p = np.sort(e / e.sum(1, keepdims=True), axis=1)
    assert taxonomy.margin(scores, 3.0) == pytest.approx((p[:, -1] - p[:, -2]).mean())
    assert taxonomy.margin(np.array([[1e4, 0.0, 1e4]])) == 0.0  # large scores, equal ones


def test_nothing_to_report():
    with pytest.raises(ValueError, match="predictions"):
        taxonomy.evaluation_report(np.array([], int), np.array([], int), TREE)
