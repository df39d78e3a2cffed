"""Every row of configs/digits_baselines.py: it learns, is saved, and answers elsewhere."""

import shutil

import numpy as np
import pytest

import vpjax
from configs import digits_baselines
from tests.helpers import runs
from vpjax.core.errors import UserError
from vpjax.runs.merge import outputs
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
    """Exports what folds, and compares a linear probe on the file; what does not is refused."""
    try:
        plain = vpjax.merge(run.model)
    except UserError as e:
        assert "keep the model whole" in str(e)
        plain = None
    else:
        logits = outputs(plain, plain.backbone.preprocess(IMAGES))["logits"]
        np.testing.assert_allclose(softmax(logits), expected, atol=1e-4)
    done = runs.command("export", "--workdir", str(run.folder), str(target))
    if plain is None or not changes_weights(run):
        assert done.returncode == 2 or "has not what" in done.stderr_text + done.stdout_text
        assert done.returncode == 0 or not target.exists()
        return
    assert done.returncode == 0, done.stderr_text
    folder = target.parent / "linear"
    words = ("--config=digits:linear", f"--workdir={folder}", f"--config.backbone.weights={target}")
    words += ("--config.backbone.head=load", "--config.data.preset=digits")
    done = runs.command(*words, "--config.train.steps=1", "--config.optim.lr=0.0")
    assert done.returncode == 0, done.stderr_text
    np.testing.assert_allclose(load_run(folder).predict(IMAGES).probabilities, expected, atol=1e-4)


def changes_weights(run):
    """Whether a run changed its backbone, or a method did that folds into it."""
    return run.config.method.name != "finetune.Linear"


def softmax(logits):
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)
