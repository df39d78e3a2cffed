"""CLIP-Adapter and Tip-Adapter from the command line: photos in folders, a tiny CLIP on disk."""

import json
import shutil
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

import vpjax
from tests.helpers.photos import SPECIES, write_clip, write_folders
from tests.helpers.runs import cache_in, command, digests, newest, result
from vpjax.runs import defaults
from vpjax.runs.experiment import prepare
from vpjax.runs.features import with_cached_features
from vpjax.runs.start_values import with_start_values

RECIPE = """
from vpjax.runs import defaults

def get_config(label):
    config = defaults.get_config()
    config.backbone = defaults.backbone("clip.CLIP", weights="{root}/clip")
    config.method = defaults.section("methods", label)
    config.data.update(name="folder:{root}/data", train="train", val="val", test="test", shots=3)
    config.data.update(eval_batch_size=8, augment="random_resized_crop=0.5/1,flip")
    config.text.templates = "coop"
    config.train.update(batch_size=8, epochs=4.0, log_every=3, save_every=0.0)
    config.optim.update(name="adamw", lr=1e-3, lr_base_batch_size=0, no_decay="", eps=1e-4)
    config.optim.update(weight_decay=0.01, warmup_epochs=0.0)
    config.draw = config.curves = False
    return config
"""
METHODS = {
    "zero_shot": "zero_shot.ZeroShot",
    "tip": "tip_adapter.TipAdapter",
    "tip_f": "tip_adapter.TipAdapterF",
    "clip_adapter": "clip_adapter.CLIPAdapter",
}
OWN = {
    "clip_adapter": ("--config.optim.lr=0.02", "--config.method.reduction=1"),
    "tip_f": ("--config.train.select=best",),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data, a CLIP, a recipe, and a cache of features."""
    folder = tmp_path_factory.mktemp("few")
    write_folders(folder / "data", train=5, val=5, test=3)
    write_clip(folder / "clip")
    (folder / "few.py").write_text(RECIPE.replace("{root}", str(folder)))
    with cache_in(folder / "cache"):
        yield folder


def words(place: Path, name: str, *more: str) -> list[str]:
    return [f"--config={place / 'few.py'}:{METHODS[name]}", f"--workdir={place / name}", *more]


@pytest.fixture(scope="module")
def runs(place):
    """A finished run of each method, by name."""
    for name in METHODS:
        done = command("train", *words(place, name, *OWN.get(name, ())))
        assert done.returncode == 0, done.stderr_text
        if name.startswith("tip"):
            assert "search    alpha" in done.stdout_text
        if name in ("zero_shot", "tip"):
            assert "no training" in done.stdout_text
    return {name: place / name for name in METHODS}


def config_of(place: Path, method: str):
    namespace = {}
    exec((place / "few.py").read_text(), namespace)
    config = namespace["get_config"](METHODS[method])
    assert isinstance(config, type(defaults.get_config()))
    return config


def test_results_say_how_they_were_chosen(runs):
    found = {name: result(folder) for name, folder in runs.items()}
    assert {n: r["trainable"] for n, r in found.items()} == {
        "zero_shot": 0,
        "tip": 0,
        "tip_f": len(SPECIES) * 3 * 6,
        "clip_adapter": 2 * 6 * 6,
    }
    assert found["tip"]["step"] == found["zero_shot"]["step"] == 0
    assert found["clip_adapter"]["step"] == 4 * 3  # 24 images in batches of 8
    assert found["clip_adapter"]["val_loss"] < found["zero_shot"]["val_loss"]
    assert found["tip"]["searched"].keys() == {"on", "alpha", "beta"}
    assert "[val] (3 images a class)" in found["tip"]["searched"]["on"]
    for name in ("tip", "tip_f"):  # what is reported has the search behind it
        assert found[name]["val_accuracy"] >= found[name]["best_val_accuracy"]
    assert found["tip"]["data"]["train"]["images"] == 24
    assert found["tip"]["data"]["test"]["images"] == 3 * len(SPECIES)  # whole


@pytest.mark.parametrize("name", METHODS)
def test_a_run_is_evaluated_anew(runs, name):
    done = command("eval", f"--workdir={runs[name]}")
    assert done.returncode == 0, done.stderr_text
    assert "equal to the recorded test accuracy" in done.stdout_text


@pytest.mark.parametrize("name", METHODS)
def test_a_run_moves_without_its_training_images(place, runs, name, tmp_path):
    """Only what a user would send: three files. The cache's keys are among what was learnt."""
    for file in ("config.json", "classes.json", "model.safetensors"):
        shutil.copy(runs[name] / file, tmp_path)
    here, there = (vpjax.load_run(f, weights=str(place / "clip")) for f in (runs[name], tmp_path))
    photos = sorted((place / "data" / "test").glob("*/*.jpg"))[:5]
    ours, theirs = (run.predict(list(map(str, photos))) for run in (here, there))
    np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)
    rows = (runs[name] / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * len(SPECIES)


def test_an_exported_program_holds_the_cache(runs, tmp_path):
    jaxtyping.config.update("jaxtyping_disable", True)  # a batch of any size is a symbol there
    target = tmp_path / "tip.stablehlo"
    try:
        done = command("export", str(target), "--format=stablehlo", f"--workdir={runs['tip']}")
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert done.returncode == 0, done.stderr_text
    assert target.stat().st_size > 1000


def test_a_finished_run_is_read_and_one_that_lost_its_result_goes_on(place, runs):
    before = result(runs["tip_f"])
    (runs["tip_f"] / "result.json").unlink()
    again = command("train", *words(place, "tip_f", "--config.train.select=best"))
    assert again.returncode == 0, again.stderr_text
    assert "start     2 arrays" not in again.stdout_text  # the cache is in the checkpoint
    after = result(runs["tip_f"])
    for key in ("searched", "test_accuracy", "val_loss", "best_val_step"):
        assert after[key] == before[key]


def test_a_run_that_was_stopped_ends_as_one_that_was_not(place, runs):
    part = place / "part"
    shutil.copytree(runs["tip_f"], part)
    steps = sorted(int(p.name) for p in (part / "checkpoints" / "last").glob("[0-9]*"))
    assert len(steps) == 2
    shutil.rmtree(part / "checkpoints" / "searched")
    for kind in ("last", "best"):
        for p in (part / "checkpoints" / kind).glob("[0-9]*"):
            if int(p.name) > steps[0]:
                shutil.rmtree(p)
    (part / "result.json").unlink()
    if not any((part / "checkpoints" / "best").glob("[0-9]*")):
        pytest.skip("the best was the last")
    words_ = words(place, "tip_f", "--config.train.select=best")
    done = command("train", words_[0], f"--workdir={part}", words_[2])
    assert done.returncode == 0 and "resumed at step" in done.stdout_text, done.stderr_text
    assert digests(part) == digests(runs["tip_f"])
    assert result(part)["searched"] == result(runs["tip_f"])["searched"]


def test_what_the_search_found_is_a_checkpoint(runs):
    meta = json.loads((newest(runs["tip"], "searched") / "meta" / "metadata").read_text())
    names = ("keys", "filled", "begun", "alpha", "beta")
    assert {f"method/{name}" for name in names} == set(meta["arrays"]["stats"])
    found = result(runs["tip"])["searched"]
    trained = vpjax.load_run(runs["tip"]).model.method
    assert float(trained.alpha[...]) == pytest.approx(found["alpha"])
    assert float(trained.beta[...]) == pytest.approx(found["beta"])
    start = vpjax.load_run(runs["tip"], checkpoint="last").model.method
    assert float(start.alpha[...]) == pytest.approx(1.17)


def test_without_a_validation_split_nothing_is_searched(place, tmp_path, caplog):
    config = config_of(place, "tip")
    config.data.val = ""
    found = vpjax.fit(config, workdir=tmp_path / "run").result
    assert "searched" not in found and "nothing is searched" in caplog.text


def test_the_cache_is_the_mean_of_augmented_passes(place):
    """Made in batches that do not divide the images, by passes in the same order."""
    config = config_of(place, "tip")
    config.data.eval_batch_size = 5
    config.method.passes = 4
    several = keys_of(config)
    config.method.passes = 1
    one = keys_of(config)
    assert np.abs(several - one).max() > 1e-4
    np.testing.assert_allclose(np.linalg.norm(several, axis=-1), 1, atol=1e-5)
    config.data.augment, config.method.passes = "", 10  # nothing is random: one pass is enough
    plain = keys_of(config)
    config.features = "cached"
    np.testing.assert_allclose(keys_of(config), plain, atol=1e-5)
    # Images of a class are alike: each augmented key is nearest to that of its own image's class.
    assert (np.einsum("ckd,ckd->ck", several, plain) > 0.5).mean() > 0.9


def keys_of(config):
    state = with_start_values(with_cached_features(prepare(config)))
    return np.asarray(state.stats["method/keys"])


def test_more_images_than_places(place, tmp_path):
    done = command(
        "train",
        *words(place, "tip")[:1],
        f"--workdir={tmp_path / 'run'}",
        "--config.method.shots=2",
    )
    assert done.returncode == 2 and "has 3 training images. Set data.shots=2" in done.stderr_text
    done = command(
        "train", *words(place, "tip")[:1], f"--workdir={tmp_path / 'run'}", "--config.data.shots=0"
    )
    assert done.returncode == 2 and "Set data.shots" in done.stderr_text


def test_a_model_made_by_hand_gets_a_cache_of_the_images_it_is_given(place, tmp_path):
    backbone = vpjax.load_backbone(str(place / "clip"))
    names = sorted(s[0] for s in SPECIES)
    options = {"shots": 5, "passes": 1, "class_names": names, "num_classes": len(names)}
    model = vpjax.create_model(backbone, "tip_adapter.TipAdapter", **options)
    where = f"folder:{place / 'data'}"
    run = vpjax.fit(model, where, val="val", test="test", batch_size=8, workdir=tmp_path)
    assert float(run.model.method.filled[...].sum()) == 5 * len(SPECIES)
    photos = sorted((place / "data" / "train" / names[0]).glob("*.jpg"))
    features = run.features(list(map(str, photos)))
    nearest = (features @ np.asarray(run.model.method.keys[0]).T).max(1)
    np.testing.assert_allclose(nearest, 1, atol=1e-4)  # each of them is a key of its class
    assert float(model.method.filled[...].sum()) == 0  # the one given is not changed
