"""Recipes are found by name and by path, from any folder, and may import each other."""

import sys

import pytest

from tests.helpers.runs import HOME
from vpjax.cli import recipes
from vpjax.core.errors import UserError


@pytest.mark.parametrize(
    ("recipe", "file", "choices"),
    [
        ("digits", "digits", ""),
        ("digits:vpt_deep", "digits", "vpt_deep"),
        ("vtab:method=vpt_deep,task=svhn", "vtab", "method=vpt_deep,task=svhn"),
        (f"{HOME}/configs/digits.py:linear", "digits", "linear"),
    ],
)
def test_a_recipe_is_found_from_any_folder(recipe, file, choices, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipes.find(recipe) == (HOME / "configs" / f"{file}.py", choices)
    assert recipes.load(recipe).to_dict()


def test_a_file_of_ones_own_imports_its_neighbours_and_ours(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("configs")]:
        monkeypatch.delitem(sys.modules, name)  # as in a fresh process
    (tmp_path / "mine.py").write_text(
        "from configs import digits\nfrom configs.shared import RATE\n\n"
        "def get_config():\n    config = digits.get_config('linear')\n"
        "    config.optim.lr = RATE\n    return config\n"
    )
    (tmp_path / "shared.py").write_text("RATE = 0.75\n")
    config = recipes.load(str(tmp_path / "mine.py"))
    assert (config.optim.lr, config.method.name) == (0.75, "finetune.Linear")
    with pytest.raises(UserError, match="the recipe mine takes no choices; found 'x'"):
        recipes.load(f"{tmp_path / 'mine.py'}:x")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("digts", "unknown recipe 'digts'. Did you mean 'digits'?"),
        ("configs/digts.py", "configs/digts.py does not exist; unknown recipe 'digts'. Did you"),
        ("elsewhere/digits.py:vpt_deep", "does not exist; vpjax's recipe is --config digits"),
        ("digits:vpt", "Did you mean 'vpt_deep'?"),
        ("configs/__init__.py", "is no recipe: it has no function get_config"),
    ],
)
def test_what_is_no_recipe(recipe, message, monkeypatch):
    monkeypatch.chdir(HOME)
    with pytest.raises(UserError) as error:
        recipes.load(recipe)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["vpt_cub", "configs/vpt_cub.py"])
def test_a_recipe_that_became_a_choice_of_another(name):
    file, choices = recipes.find(f"{name}:sup_vitl16,pixels=336")
    assert file == HOME / "configs" / "vpt_fgvc.py"
    assert choices == "task=cub,recipe=memory,backbone=sup_vitl16,pixels=336"
    config = recipes.load(f"{name}:sup_vitl16,pixels=336")
    assert (config.backbone.weights, config.backbone.image_size) == ("vit_l16_in21k", 336)
    assert recipes.load(name).method.num_tokens == 100


def test_a_recipe_says_what_its_results_show_as_long_as_they_are_its_own(tmp_path):
    own, other = recipes.load("digits"), recipes.load("digits")
    other.backbone.weights = "dino.pth"
    assert recipes.note("digits", own).startswith("This is a toy")
    assert recipes.note("digits", other) == "" == recipes.note("vpt_cifar", own)
    file = tmp_path / "noted.py"
    file.write_text("def get_config(): ...\ndef note(config):\n    return f'of {config}'\n")
    assert recipes.note(str(file), "mine") == "of mine"


def test_a_recipe_that_fails_is_read_again(tmp_path):
    file = tmp_path / "later.py"
    file.write_text("raise RuntimeError('not yet')\n")
    with pytest.raises(RuntimeError, match="not yet"):
        recipes.load(str(file))
    file.write_text("from configs.digits import get_config\n")
    assert recipes.load(f"{file}:linear").method.name == "finetune.Linear"
