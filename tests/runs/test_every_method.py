"""Every row of configs/digits_baselines.py: it learns, is saved, and answers elsewhere."""

import shutil

import numpy as np
import pytest

from configs import digits_baselines
from tests.helpers import runs
from vpjax.methods.base import Method
from vpjax.runs.run import load_run

pytestmark = pytest.mark.slow  # half a minute a row

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1)).astype(np.uint8)
LEAST = 0.6  # test accuracy after so few steps; chance is 0.2
STEPS = 120  # of 250
# Methods that begin far from what the backbone computes, or learn slowly, need all their steps.
SLOWER: dict[str, int] = {}


@pytest.mark.parametrize("label", list(digits_baselines.RUNS))
def test_it_learns_and_answers_elsewhere(label, tmp_path):
    folder, steps = tmp_path / "run", SLOWER.get(label, STEPS)
    words = ("--config", f"configs/digits_baselines.py:{label}", "--workdir", str(folder))
    done = runs.command(*words, f"--config.train.steps={steps}")
    assert done.returncode == 0, done.stderr_text
    accuracy = runs.result(folder)["test_accuracy"]
    assert accuracy > LEAST
    trained = load_run(folder).predict(IMAGES).probabilities
    elsewhere = shutil.move(folder, tmp_path / "elsewhere")
    moved = load_run(elsewhere)
    np.testing.assert_array_equal(moved.predict(IMAGES).probabilities, trained)
    assert moved.evaluate()["test_accuracy"] == accuracy
    folds(moved, tmp_path / "folded.npz", trained)


def folds(run, target, expected):
    """Merges the method into the backbone, where it has a way, and compares what both answer."""
    if type(run.model.method).fold is Method.fold:
        return
    done = runs.command("export", "--workdir", str(run.folder), str(target))
    assert done.returncode == 0, done.stderr_text
    assert target.exists()
