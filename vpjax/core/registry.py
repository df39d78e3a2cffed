"""The class that a config's `name` stands for, and the options it has.

lookup("methods", "vpt.VPT")        class VPT of vpjax/methods/vpt.py
lookup("methods", "mylab.a.Mine")   class Mine of mylab/a.py: no fork is needed
lookup("methods", "vpt.VPT+lora.LoRA")   both at once, see vpjax/methods/combine.py
"""

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from vpjax.core.errors import UserError, unknown

BASES = {"methods": "Method", "backbones": "Backbone"}  # classes of base.py in each folder


def lookup(package: str, name: str) -> type:
    """Return the class that a config's `name` stands for.

    Args:
        package: "methods" or "backbones", a folder of vpjax.
        name: "vpt.VPT" is class `VPT` of `vpjax/methods/vpt.py`. A module that is not in that
            folder ("mylab.prompts.Mine", "__main__.Mine") is imported from where Python finds it.
            Several methods are joined by "+".

    Raises:
        UserError: with the nearest names, if there is no such module or class.
    """
    if package == "methods" and "+" in name:
        combine = importlib.import_module("vpjax.methods.combine").combine
        return combine(tuple(part.strip() for part in name.split("+")))
    file, _, attribute = name.rpartition(".")
    if file in _files(package):
        module = importlib.import_module(f"vpjax.{package}.{file}")
        known = _classes(package, module)
    else:
        module = _import(package, name, file)
        known = [n for n in vars(module) if not n.startswith("_")]
    if attribute not in known:
        raise unknown(package, name, [f"{file}.{n}" for n in known])
    return getattr(module, attribute)


def available(package: str) -> list[str]:
    """Return the names of all backbones or methods of vpjax, such as "vpt.VPT"."""
    modules = {f: importlib.import_module(f"vpjax.{package}.{f}") for f in _files(package)}
    return [f"{file}.{n}" for file, module in modules.items() for n in _classes(package, module)]


def name_of(package: str, cls: type) -> str:
    """Return the name by which `lookup` finds a class."""
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix(f"vpjax.{package}.")


def construct(package: str, config: Mapping[str, Any], *args: Any, **fixed: Any) -> Any:
    """Construct the class that `config["name"]` stands for.

    Args:
        package: "methods" or "backbones".
        config: its name, and its options as further keys.
        args: positional arguments of the constructor.
        fixed: further keyword arguments, which are no options.

    Raises:
        UserError: if there is no such class, or it has not such an option; with the nearest.
    """
    cls = lookup(package, config["name"])
    given = {k: v for k, v in config.items() if k != "name"}
    allowed = options(cls).keys() - fixed.keys()
    for key in given:
        if key not in allowed:
            raise unknown(f"key of {package} {config['name']!r}", key, allowed)
    return cls(*args, **given, **fixed)


def options(cls: type) -> dict[str, inspect.Parameter]:
    """Return the options of a class: arguments that are keyword-only or have a default.

    A constructor that passes `**inherited` on has the options of its base class too.

    Raises:
        TypeError: if a constructor hides its options behind other **kwargs.
    """
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    optional = (p for p in parameters if p.kind is p.KEYWORD_ONLY or p.default is not p.empty)
    own = {p.name: p for p in optional if p.name != "rngs"}
    rest = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
    if rest and rest != ["inherited"]:
        raise TypeError(
            f"{cls.__name__}(**{rest[0]}) hides its options; write them out, or call the argument "
            "**inherited to have those of the base class"
        )
    return own | {k: v for k, v in options(cls.__base__).items() if k not in own} if rest else own


def _files(package: str) -> list[str]:
    home = Path(__file__).parents[1] / package
    return sorted({p.stem for p in home.glob("*.py")} - {"__init__", "base"})


def _classes(package: str, module: ModuleType) -> list[str]:
    """Return the names of the public methods or backbones that a module defines."""
    base = getattr(importlib.import_module(f"vpjax.{package}.base"), BASES[package])
    own = (n for n, v in vars(module).items() if inspect.isclass(v) and issubclass(v, base))
    return [
        n for n in own if not n.startswith("_") and vars(module)[n].__module__ == module.__name__
    ]


def _import(package: str, name: str, file: str) -> ModuleType:
    """Import a module that is not part of vpjax."""
    if not file:
        raise unknown(package, name, available(package))
    try:
        return importlib.import_module(file)
    except ModuleNotFoundError as e:
        if "." not in file and e.name == file:
            raise unknown(package, name, available(package)) from e
        raise UserError(f"{package} {name!r}: cannot import {file!r} ({e})") from e
