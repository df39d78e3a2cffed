"""Whole runs whose loss, labels or learning rate are not the usual ones, and runs that diverge."""

import json

import numpy as np
import pytest

from tests.data.fake import fake_tfds
from tests.helpers.runs import config, digests, newest
from tests.runs.test_fit import stop_after
from vpjax.core.errors import UserError
from vpjax.runs import evaluate as evaluation
from vpjax.runs import experiment
from vpjax.runs import fit as fitting
from vpjax.runs.fit import fit
from vpjax.runs.history import read_history
from vpjax.runs.scores import evaluate_run
from vpjax.runs.summary import one_line
from vpjax.train.early_stopping import EarlyStopping
from vpjax.train.signals import Stopped


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """What the config says of a data set whose images have several classes."""
    folder = tmp_path_factory.mktemp("voc")
    fake_tfds(folder, "voc/2007", {"train": 40, "validation": 21, "test": 13})
    splits = {"train": "train", "val": "validation", "test": "test"}
    return {"name": "voc/2007", "dir": str(folder), **splits}


def test_several_classes_an_image(tmp_path, voc):
    found = fit(config(data=voc, train={"loss": "sigmoid", "class_weights": "inv_sqrt"}), tmp_path)
    kinds = {
        "loss",
        "map",
        "mean_recall",
        "f1_micro",
        "f1_macro",
        "f1_samples",
        "threshold",
    }
    for split, images in (("val", 21), ("test", 13)):
        keys = {k.removeprefix(f"{split}_") for k in found if k.startswith(f"{split}_")}
        assert keys == kinds | {"count"}
        assert found[f"{split}_count"] == images
        assert found[f"{split}_map"] > 0 and found["metric"] == "map"
    rows = read_history(tmp_path / "metrics.jsonl")
    (last,) = [row for row in rows if row["step"] == 12 and "val_map" in row]
    assert last.keys() == {"step"} | {f"val_{k}" for k in kinds}
    assert last["val_map"] == found["val_map"]
    assert not any("accuracy" in row for row in rows)
    assert "test mAP" in one_line(found) and "(13 images)" in one_line(found)
    assert evaluate_run(tmp_path)["test_map"] == found["test_map"]


def test_class_weights_are_counted_from_the_train_split(tmp_path, voc, caplog):
    data = voc | {"train": "train[:8]"}
    prepared = experiment.prepare(
        config(data=data, train={"loss": "sigmoid", "class_weights": "inv", "batch_size": 8})
    )
    weights = prepared.criterion.keywords["weights"]
    counts = prepared.sources["train"].labels().sum(0)
    assert (counts == 0).any() and (counts > 1).any()
    share = np.where(counts > 0, 1 / np.maximum(counts, 1), 0)
    np.testing.assert_allclose(weights, share * 20 / share.sum(), rtol=1e-6)
    names = [c for c, n in zip(prepared.sources["train"].classes, counts, strict=True) if not n]
    assert f"classes without training images weigh 0: {', '.join(names)}" in caplog.text


@pytest.mark.parametrize(
    ("sections", "match"),
    [
        ({"train": {"loss": "softmax"}}, "several classes each. Use --config.train.loss=sigmoid"),
        ({"train": {"loss": "sigmoids"}}, "unknown train.loss.*Did you mean 'sigmoid'"),
        ({"train": {"class_weights": "inverse"}}, "unknown train.class_weights.*'inv'"),
        ({"optim": {"schedule": "plateau"}, "data": {"val": ""}}, "'plateau' needs data.val"),
    ],
)
def test_mistakes_are_found_before_compiling(tmp_path, monkeypatch, voc, sections, match):
    monkeypatch.setattr(fitting, "compiled", None)
    settings = config(data=voc)
    for section, values in sections.items():
        settings[section].update(values)
    with pytest.raises(UserError, match=match):
        fit(settings, tmp_path)


def test_a_plateau_counts_evaluations_in_a_row():
    early = EarlyStopping(patience=0)
    said = []
    for step, accuracy in enumerate([50, 50, 40, 50, 51, 50, 50, 50, 50]):
        early.better(accuracy, step)
        said.append(early.plateau(2))
    assert said == [False, False, True, False, False, False, True, False, True]


def test_a_plateau_lowers_the_rate_and_is_resumed_bit_for_bit(tmp_path, monkeypatch):
    real = fitting.evaluate_metrics
    monkeypatch.setattr(fitting, "evaluate_metrics", lambda *a: real(*a) | {"accuracy": 50.0})
    settings = config(
        optim={"warmup_epochs": 0.0, "schedule": "plateau", "plateau_patience": 2},
        train={"loss": "sigmoid", "class_weights": "inv"},
    )
    found = fit(settings, tmp_path / "whole")
    rows = read_history(tmp_path / "whole" / "metrics.jsonl")
    rates = {r["step"]: r["lr"] for r in rows if "lr" in r}
    expected = {2: 0.03, 4: 0.03, 6: 0.03, 8: 0.003, 10: 0.003, 12: 0.0003}
    assert rates == pytest.approx(expected)
    assert rows[-1].keys() == {
        "step",
        "val_accuracy",
        "val_loss",
        "val_top5",
        "val_mean_class_accuracy",
    }
    for split in ("val", "test"):
        assert found[f"{split}_top5"] == 100  # of five digits
        assert 0 < found[f"{split}_mean_class_accuracy"] < 100
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        with pytest.raises(Stopped, match="step 9 of 12"):
            fit(settings, tmp_path / "halved")
    fit(settings, tmp_path / "halved")
    assert digests(tmp_path / "halved") == digests(tmp_path / "whole")
    again = {
        r["step"]: r["lr"] for r in read_history(tmp_path / "halved" / "metrics.jsonl") if "lr" in r
    }
    assert again == rates


def diverging(monkeypatch, step):
    """Makes the loss of that step and all after it NaN."""
    real = fitting.compiled

    def compiled(*arguments):
        train_step = real(*arguments)

        def call(state, frozen, batch):
            broken = int(state.step) + 1 >= step
            state, numbers = train_step(state, frozen, batch)
            return state, numbers | ({"loss": np.float32("nan")} if broken else {})

        return call

    monkeypatch.setattr(fitting, "compiled", compiled)


@pytest.mark.parametrize("signal", [False, True])
def test_a_run_that_diverges_names_the_step_and_keeps_what_it_saved(tmp_path, monkeypatch, signal):
    diverging(monkeypatch, 7)
    if signal:  # after the step that broke, before anything looked at it
        stop_after(monkeypatch, 6)
    with pytest.raises(UserError, match="the loss is nan at step 7: the run has diverged") as error:
        fit(config(), tmp_path)
    assert "Earlier checkpoints are kept" in str(error.value)
    assert newest(tmp_path).name == "6"
    assert not (tmp_path / "result.json").exists()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) == 6
    assert all(v is not None for row in rows for v in row.values())
    assert np.isfinite(evaluate_run(tmp_path)["test_loss"])


def test_an_evaluation_that_is_no_number_is_no_result(tmp_path, monkeypatch):
    real = evaluation.evaluate
    wrong = {"loss": float("inf")}
    monkeypatch.setattr(evaluation, "evaluate", lambda *a: (real(*a)[0] | wrong, None))
    with pytest.raises(UserError, match="the loss of the val split is inf at step 2"):
        fit(config(), tmp_path)
    assert not (tmp_path / "result.json").exists()
    assert not list((tmp_path / "checkpoints").glob("*/[0-9]*"))
