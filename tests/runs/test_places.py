"""A run is used from any folder, after it has moved, and without its training images."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import vpjax
from tests.helpers.runs import command
from tests.runs.test_recorded import write_photos
from vpjax.core.errors import UserError
from vpjax.runs import config as configs
from vpjax.runs import defaults, places, recorded
from vpjax.weights.download import fetch

SHORT = ("--config.train.steps=6", "--config.train.batch_size=8", "--config.train.eval_every=0.1")
SHORT += ("--config.train.save_every=0.", "--config.data.eval_batch_size=8")
SPLITS = ("--config.data.train=train", "--config.data.val=val", "--config.data.test=test")
PATHS = ("--config.data.name=folder:photos", "--config.backbone.weights=weights/small.npz")
PATHS += ("--config.data.preset=digits",)


def train(*words):
    recipe = "--config=digits:vpt_deep"
    return command("train", recipe, *SHORT, *SPLITS, *PATHS, "--workdir=runs/mine", *words)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project: photos, weights, and a run that was begun in it with relative paths."""
    project = tmp_path_factory.mktemp("places") / "project"
    write_photos(project / "photos")
    (project / "weights").mkdir()
    shutil.copy(fetch("digits_vit"), project / "weights" / "small.npz")
    before = Path.cwd()
    os.chdir(project)
    try:
        done = train()
    finally:
        os.chdir(before)
    assert done.returncode == 0, done.stderr_text
    return project


@pytest.fixture
def project(tmp_path, made):
    """The same elsewhere, as if its first place had never been seen from here."""
    shutil.copytree(made, tmp_path / "moved")
    path = tmp_path / "moved" / "runs" / "mine" / "place.json"
    path.write_text(path.read_text().replace(str(made), "/gone/project"))
    return tmp_path / "moved"


def accuracy(done):
    assert done.returncode == 0, done.stderr_text
    return "equal to the recorded test accuracy" in done.stdout_text


def test_what_is_recorded(made):
    record = json.loads((made / "runs" / "mine" / "place.json").read_text())
    assert record["run"] == str(made / "runs" / "mine")
    assert record["paths"] == {
        "data.name": ["folder:photos", f"folder:{made / 'photos'}"],
        "backbone.weights": ["weights/small.npz", str(made / "weights" / "small.npz")],
    }
    config = json.loads((made / "runs" / "mine" / "config.json").read_text())
    assert config["data"]["name"] == "folder:photos"  # as it was given


def test_from_another_folder(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert accuracy(command("eval", f"--workdir={made / 'runs' / 'mine'}"))
    run = vpjax.load_run(made / "runs" / "mine")
    assert len(run.predict(made / "photos" / "test")) == 18
    assert "folder:/" in run.config.data.name


def test_a_project_moves_as_one(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = project / "runs" / "mine"
    done = command("predict", f"--workdir={run}", str(project / "photos" / "test"))
    assert done.returncode == 0 and done.stdout_text.count("\n") == 19
    assert "data.name" not in done.stderr_text  # which it does not read
    evaluated = command("eval", f"--workdir={run}")
    assert accuracy(evaluated)
    assert evaluated.stdout_text.count("moved     config.data.name is ") == 1
    assert not (run / "evaluations").exists()  # it is the run's own evaluation, as it was


def test_no_training_image_is_needed(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = project / "runs" / "mine"
    per_class = (run / "per_class.csv").read_text()
    for split in ("train", "val"):
        shutil.rmtree(project / "photos" / split)
    assert accuracy(command("eval", f"--workdir={run}"))
    assert (run / "per_class.csv").read_text() == per_class  # with numbers of training images
    shutil.rmtree(project / "photos" / "test" / "ant")  # labels stay those of the run
    done = command("eval", f"--workdir={run}", "--config.data.test=test[:50%]+test[50%:]")
    assert done.returncode == 0 and "12 images" in done.stdout_text, done.stderr_text
    with open(run / "evaluations" / "1" / "per_class.csv") as file:
        images = [line.split(",")[2] for line in file.read().splitlines()]
    assert images == ["images", "0", "6", "6"]
    (project / "photos" / "test" / "bee").rename(project / "photos" / "test" / "wasp")
    done = command("eval", f"--workdir={run}")
    assert done.returncode == 2 and "only now: wasp" in done.stderr_text


@pytest.mark.parametrize(
    ("lost", "said", "told"),
    [
        (
            "photos",
            "config.data.name of the run {run} is folder:/gone/project/photos, which does not",
            "--config.data.name=folder:{new}",
        ),
        (
            "weights",
            "config.backbone.weights of the run {run} is /gone/project/weights/small.npz, which",
            "--config.backbone.weights={new}/small.npz",
        ),
    ],
)
def test_what_is_lost_is_named_and_may_be_told(project, tmp_path, lost, said, told):
    new, run = tmp_path / "elsewhere", project / "runs" / "mine"
    (project / lost).rename(new)
    done = command("eval", f"--workdir={run}")
    assert done.returncode == 2 and said.format(run=run) in done.stderr_text
    assert told.partition("=")[0] in done.stderr_text
    done = command("eval", f"--workdir={run}", told.format(new=new))
    assert done.returncode == 0 and "18 images" in done.stdout_text, done.stderr_text
    if lost == "weights":
        with pytest.raises(UserError, match="load_run\\(folder, weights=PATH\\)"):
            vpjax.load_run(run)
        photos = str(project / "photos" / "test")
        done = command("predict", f"--workdir={run}", told.format(new=new), photos)
        assert done.returncode == 0, done.stderr_text


def test_the_folder_of_data_may_be_told(project, tmp_path):
    run = project / "runs" / "mine"
    (project / "photos").rename(tmp_path / "photos")
    done = command("eval", f"--workdir={run}", f"--config.data.dir={tmp_path}")
    assert done.returncode == 0 and "18 images" in done.stdout_text, done.stderr_text


def test_going_on_after_moving(project, monkeypatch):
    run = project / "runs" / "mine"
    (run / "result.json").unlink()
    monkeypatch.chdir(project)
    assert train().returncode == 0
    record = json.loads((run / "place.json").read_text())
    assert record["run"] == str(run)
    (run / "result.json").unlink()
    (project / "photos").rename(project / "pictures")
    done = train("--config.data.name=folder:pictures")  # the old place is empty
    assert done.returncode == 0, done.stderr_text
    shutil.copytree(project / "pictures", project / "photos")
    done = train("--config.data.name=folder:photos")  # both are there: other data
    assert done.returncode == 2 and "belongs to a run with another config" in done.stderr_text


def test_a_run_of_an_older_version_goes_on(project, monkeypatch):
    run = project / "runs" / "mine"
    (run / "place.json").unlink()
    classes = json.loads((run / "classes.json").read_text())
    del classes["images"], classes["counts"]
    (run / "classes.json").write_text(json.dumps(classes))
    monkeypatch.chdir(project)
    assert accuracy(command("eval", "--workdir=runs/mine"))
    shutil.rmtree(project / "photos" / "train")
    assert accuracy(command("eval", "--workdir=runs/mine"))
    shutil.copytree(project / "photos" / "val", project / "photos" / "train")
    (run / "result.json").unlink()
    assert train().returncode == 0


def test_a_config_that_was_edited_is_obeyed(project):
    run = project / "runs" / "mine"
    found = configs.load(run / "config.json")
    found.data.name = "folder:/my/photos"
    configs.save(found, run / "config.json")
    assert recorded.load(run).data.name == "folder:/my/photos"


def test_paths_of_every_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("names.txt", "keep.txt", "means.npy", "vocabulary.gz"):
        (tmp_path / name).write_text("")
    config = defaults.get_config()
    config.data.update(dir="sets", name="csv:list.csv", classes="keep.txt")
    config.text.update(tokenizer="vocabulary.gz", class_names="names.txt")
    config.method.update(init="cls-nolastl", init_path="means.npy")
    config.train.start = "runs/first#best"
    whole = places.whole(config)
    assert whole.data.dir == f"{tmp_path}/sets" and whole.data.classes == f"{tmp_path}/keep.txt"
    assert whole.data.name == "csv:list.csv"  # below data.dir
    assert whole.text.tokenizer == f"{tmp_path}/vocabulary.gz"
    assert whole.text.class_names == f"{tmp_path}/names.txt"
    assert whole.method.init_path == f"{tmp_path}/means.npy" and whole.method.init == "cls-nolastl"
    assert whole.train.start == f"{tmp_path}/runs/first#best"
    assert whole.backbone.weights == config.backbone.weights == "vit_b16_in21k"
    assert places.whole(whole) == whole
    for kind in ("folder", "fgvc", "vtab1k", "idx", "cifar", "zhou", "nabirds"):
        config.data.update(dir="", name=f"{kind}:x/y")
        assert places.whole(config).data.name == f"{kind}:{tmp_path}/x/y"
    for name in ("cifar10:3.0.2", "vtab/svhn", "inat2021", "digits/high"):
        config.data.name = name
        assert places.whole(config).data.name == name


def test_class_embeddings_are_needed_to_begin_only(made, tmp_path, monkeypatch):
    monkeypatch.chdir(made)
    np.save(tmp_path / "means.npy", np.zeros((8, 5, 48), np.float32))
    start = (
        f"--config.method.init_path={tmp_path / 'means.npy'}",
        "--config.method.init=final-cls",
    )
    assert train(*start, f"--workdir={tmp_path / 'run'}").returncode == 0
    (tmp_path / "means.npy").unlink()
    assert accuracy(command("eval", f"--workdir={tmp_path / 'run'}"))
    assert len(vpjax.load_run(tmp_path / "run").predict("photos/test")) == 18
