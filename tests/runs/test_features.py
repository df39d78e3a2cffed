"""Features of a frozen backbone on disk: the same run as through it, and what may go wrong."""

import itertools
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from tests.helpers.runs import config, result
from vpjax.core.errors import UserError
from vpjax.core.files import cache_folder
from vpjax.data import Loader, open_source, preset
from vpjax.data import features as storage
from vpjax.data.features import FeatureLoader, Rows, content
from vpjax.runs import features as module
from vpjax.runs.config import merged
from vpjax.runs.experiment import prepare
from vpjax.runs.features import FeatureInputs, with_cached_features
from vpjax.runs.fit import fit
from vpjax.runs.history import read_history
from vpjax.runs.scores import evaluate_run


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of one's own."""
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path / "cache"))


def run(label="linear", **changes):
    return merged(config(label, data={"eval_batch_size": 64}), {"features": "cached"} | changes)


def folders():
    return sorted(p.parent for p in cache_folder().glob("features/*/meta.json"))


def history(folder):
    return [row["loss"] for row in read_history(folder / "metrics.jsonl") if "loss" in row]


@pytest.mark.parametrize("hidden", [0, 1])
def test_the_run_is_the_same_as_through_the_backbone(tmp_path, hidden):
    method = {"name": "finetune.Linear", "head_hidden": hidden}
    for features in ("off", "cached"):
        fit(run(features=features, method=method, draw=False), tmp_path / features)
    one, other = (result(tmp_path / f) for f in ("off", "cached"))
    assert (one["cached_features"], other["cached_features"]) == (False, True)
    assert one["test_accuracy"] == other["test_accuracy"]
    assert one["test_loss"] == pytest.approx(other["test_loss"], rel=1e-4)
    losses = history(tmp_path / "off")
    assert len(losses) > 2
    np.testing.assert_allclose(losses, history(tmp_path / "cached"), rtol=1e-4)
    for key in ("trainable", "total"):
        assert one[key] == other[key]
    assert evaluate_run(tmp_path / "cached")["test_loss"] == other["test_loss"]
    assert len(folders()) == 3  # train, val, test


@pytest.mark.parametrize("remainder", ["wrap", "drop", "keep"])
def test_batches_have_the_images_own_order(remainder):
    source = open_source("digits/high", "train[:50]")
    rows = Rows(np.arange(100, dtype=np.float32).reshape(50, 2), source.labels().astype(np.int32))
    options = {"seed": 3, "remainder": remainder}
    of_images = Loader(source, 16, preset("digits"), 8, **options)
    of_rows = FeatureLoader(source, rows, 16, **options)
    assert of_rows.steps_per_epoch == of_images.steps_per_epoch
    several = itertools.islice(of_rows.batches(2), 6)
    for step, batch in enumerate(several, 2):
        expected = of_images.batch(step)
        np.testing.assert_array_equal(batch["label"], expected["label"])
        np.testing.assert_array_equal(batch["mask"], expected["mask"])
        real = of_images.indices(step)[batch["mask"]]
        np.testing.assert_array_equal(batch["features"][batch["mask"]], rows.features[real])
    once = list(FeatureLoader(source, rows, 16, train=False).batches())
    assert sum(b["mask"].sum() for b in once) == 50
    assert not once[-1]["features"][~once[-1]["mask"]].any()


def rows_of(**changes):
    return with_cached_features(prepare(run(**changes))).inputs.rows("train")


def test_a_killed_computation_goes_on(monkeypatch):
    """Rows that were saved are not computed again, and none is missing."""
    monkeypatch.setattr(module, "EVERY", 0.0)
    real, written = FeatureInputs.keep, []

    def keep(self, store, step, features, batch):
        if len(written) == 5 and not going_on:
            raise KeyboardInterrupt
        written.append(step)
        real(self, store, step, features, batch)

    going_on = False
    monkeypatch.setattr(FeatureInputs, "keep", keep)
    with pytest.raises(KeyboardInterrupt):
        rows_of()
    meta = json.loads((folders()[0] / "meta.json").read_text())
    assert meta["done"] == 5 * 64 and written == [0, 1, 2, 3, 4]
    going_on, killed = True, len(written)
    resumed = rows_of()
    assert written[killed:] == list(range(5, 11))
    assert json.loads((folders()[0] / "meta.json").read_text())["done"] == 400
    shutil.rmtree(cache_folder() / "features")
    whole = rows_of()
    for one, other in zip(resumed, whole, strict=True):
        np.testing.assert_array_equal(one, other)
    again = len(written)
    np.testing.assert_array_equal(rows_of().labels, whole.labels)
    assert len(written) == again  # nothing was computed


def test_what_features_depend_on_makes_them_others():
    changes = [{}, {"data": {"preset": "inception"}}, {"dtype": "bfloat16"}, {"seed": 1}]
    changes += [{"data": {"train": "train[:80%]"}}, {"optim": {"lr": 9.0}}]
    found = []
    for change in changes:
        rows_of(**change)
        found.append(set(folders()))
    # "inception" is "digits" by another name; a seed changes no loaded weights.
    assert [len(f) for f in found] == [1, 1, 2, 2, 3, 3]
    rows_of(backbone={"weights": ""})
    assert len(folders()) == 4


def test_content_sees_labels_classes_and_images():
    source = open_source("digits/high", "train[:20]")
    first = content(source)
    assert first == content(open_source("digits/high", "train[:20]"))
    assert first != content(open_source("digits/high", "train[1:21]"))
    source.classes = source.classes[::-1]
    assert first != content(source)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data": {"preset": "vpt_fgvc"}}, "augments training images .random_crop, flip."),
        ({"method": {"name": "vpt.VPT"}}, "vpt.VPT works inside it"),
        ({"train": {"trainable": "method/.*|backbone/cls_token"}}, "backbone/cls_token trains"),
        ({"features": "cachd"}, "Did you mean 'cached'"),
    ],
)
def test_why_it_cannot_be(changes, match):
    with pytest.raises(UserError, match=match):
        with_cached_features(prepare(run(**changes)))


def test_auto_is_for_large_backbones_and_several_epochs(monkeypatch):
    asked = lambda **c: with_cached_features(prepare(run(features="auto", **c))).inputs.cached  # noqa: E731
    long = {"train": {"steps": 60}}
    assert not asked(**long)
    monkeypatch.setattr(module, "LARGE", 1000)
    assert asked(**long)
    assert not asked()  # 12 steps are not one epoch
    assert not asked(method={"name": "vpt.VPT"}, **long)
    assert not asked(data={"preset": "vpt_fgvc"}, **long)


def test_a_full_disk_is_told_before(monkeypatch):
    full = SimpleNamespace(free=1000)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: full)
    with pytest.raises(UserError, match="VPJAX_CACHE"):
        rows_of()
