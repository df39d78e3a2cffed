"""A folder of photos on the command line, from training to evaluation, offline."""

import json

import pytest

from configs import photos
from tests.data.test_holdout import folder
from tests.helpers.runs import command, result
from vpjax.cli import recipes
from vpjax.core.errors import UserError
from vpjax.data.holdout import FILE

OFFLINE = ("--config.draw=False", "--config.curves=False", "--config.train.epochs=1")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(photos.hub, "weights_in", _no_network)
    monkeypatch.chdir(tmp_path)


def _no_network(where):
    raise UserError(f"no file {where}")


def test_a_folder_is_all_that_is_needed(tmp_path):
    root = folder(tmp_path / "pets", ant=12, bee=12)
    done = command("train", "pets/", *OFFLINE)
    assert done.returncode == 0, done.stderr_text
    run = tmp_path / "runs" / "photos-pets"
    said = done.stdout_text
    assert "stands in. It has 0.1 M parameters" in said
    head = said[said.index("run    ") : said.index("plan    ")].splitlines()
    assert len(head) <= 7 and max(map(len, head)) <= 80
    assert "counts    ant 8/2/2, bee 8/2/2" in head
    assert "splits    val and test taken from train by class, seed 0: splits.csv" in head
    assert len((run / FILE).read_text().splitlines()) == 25
    assert json.loads((run / "classes.json").read_text())["names"] == ["ant", "bee"]
    folder(root, ant=12, bee=20)  # eight more, which the run does not know
    done = command("eval", "--workdir", str(run))
    assert done.returncode == 0 and "equal to the recorded test accuracy" in done.stdout_text
    words = ("--config.data.holdout=0", "--config.data.test=train")
    done = command("eval", "--workdir", str(run), *words)
    assert "(32 images)" in done.stdout_text
    assert result(run)["test_count"] == 4


def test_methods_are_compared_and_evaluated_together(tmp_path):
    folder(tmp_path / "pets", ant=8, bee=8)
    recipe = "photos:method=linear+vpt_deep"
    done = command("train", "pets", "--config", recipe, *OFFLINE[:2])
    assert done.returncode == 0, done.stderr_text
    lines = [line for line in done.stdout_text.splitlines() if line.startswith("run ")]
    assert [line.split()[1:3] for line in lines] == [["1/2", "linear,"], ["2/2", "vpt_deep,"]]
    assert "left" in lines[0] and max(map(len, lines)) <= 80
    place = tmp_path / "runs" / "photos-pets-method=linear+vpt_deep".replace("pets-", "pets,")
    log = (place / "linear" / "seed0" / "log.txt").read_text()
    assert "loss" in log and "start-up" in log
    done = command("eval", "--workdir", str(place))
    assert done.returncode == 0, done.stderr_text
    table = [line for line in done.stdout_text.splitlines() if line.startswith("| ")]
    assert len(table) == 4 and all("the same" in line for line in table[2:])


def test_what_photos_needs(tmp_path):
    folder(tmp_path / "pets", ant=3, bee=3)
    for words, text in {
        ("train", "digits"): "digits is a recipe; write --config digits",
        ("train", "nothing/here/x"): "nothing/here/x does not exist",
        ("train", "--config", "photos"): "needs data: a folder that holds",
        ("train", "pets", "--config", "digits"): "digits has data of its own",
        ("train", "--config", "photos:pets,method=lineer"): "Did you mean 'linear'?",
        ("train", "--config", "photos:pets,metod=linear"): "Did you mean 'method'?",
        ("check-data",): "required: --config, or DATA",
    }.items():
        done = command(*words)
        assert done.returncode == 2 and text in done.stderr_text, (words, done.stderr_text)


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("digits", "digits"),
        ("digits:vpt_deep", "digits-vpt_deep"),
        ("vtab:method=linear,task=svhn", "vtab-method=linear,task=svhn"),
        ("photos:./pets/", "photos-pets"),
        ("photos:pets,method=linear", "photos-pets,method=linear"),
        ("photos:more/pets", "photos-more-pets"),
        ("photos:pets,backbone=../deep/dir/net.safetensors", "photos-pets,backbone=dir-net"),
    ],
)
def test_default_folders_tell_recipes_choices_and_data_apart(recipe, name, tmp_path):
    for place in ("pets", "more/pets"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path.parent / "deep" / "dir").mkdir(parents=True, exist_ok=True)
    (tmp_path.parent / "deep" / "dir" / "net.safetensors").touch()
    assert recipes.folder_name(recipe) == name


def test_default_folders_of_own_recipes_and_of_far_data(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "digits.py").write_text("")
    assert recipes.folder_name("a/digits.py") == "a-digits" != recipes.folder_name("b/digits.py")
    far = tmp_path.parent / f"{tmp_path.name}_far"
    far.mkdir()
    assert recipes.folder_name(f"photos:../{far.name}") == recipes.folder_name(f"photos:{far}")
    assert len(recipes.folder_name("photos:" + "x" * 300)) < 100


@pytest.mark.parametrize(("images", "batch"), [(20, 8), (1000, 16), (5000, 64)])
def test_batch_and_epochs_go_by_the_number_of_images(images, batch, tmp_path, monkeypatch):
    folder(tmp_path / "pets", ant=3, bee=3)
    monkeypatch.setattr(photos, "open_source", lambda *a, **k: range(images))
    linear, prompts = (photos.get_config(f"pets,method={m}") for m in ("linear", "vpt_deep"))
    assert linear.train.batch_size == prompts.train.batch_size == batch
    assert linear.train.epochs == 5 * prompts.train.epochs
    assert prompts.method.name == "vpt.VPT" and prompts.method.deep
