"""Recipes: files with a `get_config(choices) -> ConfigDict`, found by name or by path.

    vpt_cifar                           configs/vpt_cifar.py of the checkout, or of the package
    vtab:method=vpt_deep,task=svhn      what follows the colon goes to get_config
    my/recipes/mine.py:quick            a file of one's own

A recipe may import others by `from configs import vpt_cifar`, wherever it lies: while one is read,
`configs` is its own folder and the folder of vpjax's recipes. No package of that name is installed.
"""

import argparse
import importlib.util
import inspect
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
        raise UserError(f"{name} does not exist; {unknown('recipe', path.stem, names())}")
    if name not in names():
        raise unknown("recipe", name, names())
    return FOLDER / f"{name}.py", choices


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


def chosen(arguments: argparse.Namespace, suffix: str = "") -> tuple["ConfigDict", Path]:
    """Return the config that a command line asks for, and the folder to work in.

    Args:
        arguments: with `config`, `overrides` and `workdir`.
        suffix: what the default folder's name has beyond the recipe's.

    Raises:
        UserError: for what is wrong with the recipe or a key.
    """
    from vpjax.runs import effect  # here: it needs jax

    config = overrides.apply(load(arguments.config), arguments.overrides)
    effect.check(config, [key for key, _ in arguments.overrides], arguments.command)
    stem = find(arguments.config)[0].stem
    return config, arguments.workdir or Path("runs") / f"{stem}{suffix}"
