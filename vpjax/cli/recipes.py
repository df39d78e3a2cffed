"""Recipes: files with a `get_config(choices) -> ConfigDict`, found by name or by path.

    vpt_cifar                           configs/vpt_cifar.py of the checkout, or of the package
    vtab:method=vpt_deep,task=svhn      what follows the colon goes to get_config
    my/recipes/mine.py:quick            a file of one's own

A recipe may import others by `from configs import vpt_cifar`, wherever it lies: while one is read,
`configs` is its own folder and the folder of vpjax's recipes. No package of that name is installed.
"""

import argparse
import hashlib
import importlib.util
import inspect
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import vpjax
from vpjax.cli import overrides
from vpjax.core.errors import UserError, unknown

if TYPE_CHECKING:
    from ml_collections import ConfigDict

PACKAGE = Path(vpjax.__file__).parent
# Installed, recipes are the package's; in a checkout they lie beside it.
FOLDER = next(
    (p for p in (PACKAGE / "recipes", PACKAGE.parent / "configs") if p.is_dir()),
    PACKAGE / "recipes",
)
FIRST_RUN = "digits"
# Recipes that are choices of another now: its name, choices, and which choice came first.
MOVED = {"vpt_cub": ("vpt_fgvc", "task=cub,recipe=memory", "backbone")}
OWN_DATA = "photos"  # the recipe of a folder or list on the command line
LONGEST = 80  # characters of a folder's name


def names() -> list[str]:
    """Return the names of vpjax's recipes."""
    return sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "__init__")


def find(recipe: str) -> tuple[Path, str]:
    """Return a recipe's file, and the choices that follow its name.

    Raises:
        UserError: with the nearest name, if there is no such recipe.
    """
    name, _, choices = recipe.partition(":")
    path = Path(name).expanduser()
    if (old := path.stem if path.suffix == ".py" else name) in MOVED and not path.is_file():
        new, always, first = MOVED[old]
        parts = [p if "=" in p else f"{first}={p}" for p in choices.split(",") if p]
        return FOLDER / f"{new}.py", ",".join([always, *parts])
    if path.suffix == ".py":
        if path.is_file():
            return path.resolve(), choices
        if path.stem in names():
            raise UserError(f"{name} does not exist; vpjax's recipe is --config {path.stem}")
        raise UserError(f"{name} does not exist; {unknown('recipe', path.stem, names())}")
    if name not in names():
        raise unknown("recipe", name, names())
    return FOLDER / f"{name}.py", choices


def with_data(recipe: str, data: str) -> str:
    """Return the recipe `photos`, with its choices, for data that stand alone on the command line.

    Raises:
        UserError: if another recipe is named, which has data of its own.
    """
    if not recipe and data.partition(":")[0] in names() and not os.path.exists(data):
        raise UserError(f"{data} is a recipe; write --config {data}")
    recipe = recipe or OWN_DATA
    path, choices = find(recipe)
    if path != FOLDER / f"{OWN_DATA}.py":
        raise UserError(
            f"{data!r} stands alone, which is for the recipe {OWN_DATA}; {recipe} has data of its "
            f"own. Change them by --config.data.name=folder:{data}, or leave --config out."
        )
    return ":".join([recipe.partition(":")[0], ",".join(filter(None, [data, choices]))])


def load(recipe: str) -> "ConfigDict":
    """Return the config of a recipe such as "vtab:task=svhn".

    Raises:
        UserError: if there is no such recipe, or none of its choices is meant.
    """
    path, choices = find(recipe)
    make = getattr(_import(path), "get_config", None)
    if make is None:
        raise UserError(f"{path} is no recipe: it has no function get_config")
    if choices and not inspect.signature(make).parameters:
        raise UserError(f"the recipe {path.stem} takes no choices; found {choices!r}")
    config = make(choices) if choices else make()
    return config.lock()


def note(recipe: str, config: "ConfigDict") -> str:
    """Return what a recipe says about its results: of its function `note`, if it has one.

    Args:
        recipe: as on the command line.
        config: of the runs, after all changes.
    """
    say = getattr(_import(find(recipe)[0]), "note", None)
    return say(config) if say else ""


def _import(path: Path) -> ModuleType:
    package = sys.modules.setdefault("configs", ModuleType("configs"))
    package.__path__ = list(dict.fromkeys([str(path.parent), str(FOLDER)]))
    name = f"configs.{path.stem}"
    known = sys.modules.get(name)
    if known is not None and Path(known.__file__) == path:
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def folder_name(recipe: str) -> str:
    """Return the name of a recipe's default folder: file, choices, and data that choices name.

    "vtab:method=vpt_deep,task=svhn" is "vtab-method=vpt_deep,task=svhn", "photos:./birds/" is
    "photos-birds". A file of one's own begins with its folder's name.
    """
    path, choices = find(recipe)
    parts = [path.stem] if path.parent == FOLDER else [path.parent.name, path.stem]
    if choices:
        parts.append(",".join(map(_placed, choices.split(","))))
    text = re.sub(r"[^\w.,=+-]+", "-", "-".join(parts)).strip("-.")
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    return text


def _placed(choice: str) -> str:
    """Return a choice, a path in it the same however it is written."""
    key, equals, value = choice.rpartition("=")
    if not os.path.exists(place := os.path.expanduser(value)):
        return choice
    if key and os.path.isfile(place):  # weights: their file and its folder tell them apart
        return f"{key}={'/'.join(Path(place).absolute().with_suffix('').parts[-2:])}"
    near = os.path.relpath(place)
    value = os.path.abspath(place) if near.startswith("..") or near == "." else near
    return f"{key}{equals}{value.strip('/')}"


def chosen(arguments: argparse.Namespace, suffix: str = "") -> tuple["ConfigDict", Path]:
    """Return the config that a command line asks for, and the folder to work in.

    Args:
        arguments: with `config`, `overrides` and `workdir`.
        suffix: what the default folder's name has beyond the recipe's.

    Raises:
        UserError: for what is wrong with the recipe or a key.
    """
    from vpjax.runs import effect  # here: it needs jax

    if getattr(arguments, "data", None):
        arguments.config = with_data(arguments.config, arguments.data)
    arguments.config = arguments.config or arguments.recipe
    config = overrides.apply(load(arguments.config), arguments.overrides)
    effect.check(config, [key for key, _ in arguments.overrides], arguments.command)
    name = folder_name(arguments.config)
    return config, arguments.workdir or Path("runs") / f"{name}{suffix}"
