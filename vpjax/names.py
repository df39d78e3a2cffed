"""Parameter names, and the code a config names.

Every parameter has one name, its path of attributes joined by "/":

    backbone/layers/11/attn/query/kernel        method/prompts/3        method/head/kernel

The library keeps a model's numbers as flat dictionaries {name: array}. One regular expression over
these names says what trains; the same names drive weight decay, sharding, loading, checkpoints and
tables.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from vpjax.errors import UserError, unknown


def flatten(state: nnx.State) -> dict[str, Any]:
    """Returns the arrays of a state by name."""
    return {"/".join(map(str, path)): v.get_value() for path, v in nnx.to_flat_state(state)}


def fill(state: nnx.State, values: Mapping[str, Any]) -> nnx.State:
    """Returns a state like `state` whose arrays are `values`; names must match one to one."""
    flat = nnx.to_flat_state(state)
    named = {"/".join(map(str, path)): (path, v) for path, v in flat}
    if named.keys() != values.keys():
        raise KeyError(f"names differ: {sorted(named.keys() ^ values.keys())}")
    return nnx.from_flat_state((path, v.replace(values[name])) for name, (path, v) in named.items())


def matching(pattern: str, names: Iterable[str], what: str = "pattern") -> set[str]:
    """Returns the names that `pattern` matches in full.

    Raises: UserError if the pattern is not a regular expression, or matches nothing.
    """
    names = list(names)
    try:
        compiled = re.compile(pattern)
    except re.error as e:
        raise UserError(f"{what} {pattern!r} is not a regular expression: {e}") from e
    found = {n for n in names if compiled.fullmatch(n)}
    if not found:
        shown = "\n  ".join(names[:12] + ["..."] * (len(names) > 12))
        raise UserError(f"{what} {pattern!r} matches no parameter. Names look like\n  {shown}")
    return found


def lookup(package: str, name: str) -> Callable:
    """Returns what a config's `name` stands for: "vpt.VPT" in `vpjax.methods` is the class `VPT`
    of `vpjax/methods/vpt.py`. A name that begins elsewhere ("mylab.prompts.Mine") is imported from
    there, so a method of one's own needs no fork.

    Raises: UserError with the nearest names if there is no such file or class.
    """
    home = Path(__file__).parent / package
    files = {p.stem for p in home.glob("*.py")} - {"__init__", "base", "contract"}
    file, _, attribute = name.rpartition(".")
    if file in files:
        module = importlib.import_module(f"vpjax.{package}.{file}")
        known = [n for n, v in vars(module).items() if _is_public_class(v, module)]
    elif "." in file:
        try:
            module = importlib.import_module(file)
        except ModuleNotFoundError as e:
            raise UserError(f"{package} {name!r}: cannot import {file!r} ({e})") from e
        known = [n for n in vars(module) if not n.startswith("_")]
    else:
        raise unknown(package, name, available(package))
    if attribute not in known:
        raise unknown(package, name, [f"{file}.{n}" for n in known])
    return getattr(module, attribute)


def available(package: str) -> list[str]:
    """Returns every name `lookup` finds inside vpjax."""
    home = Path(__file__).parent / package
    names = []
    for path in sorted(home.glob("*.py")):
        if path.stem in ("__init__", "base", "contract"):
            continue
        module = importlib.import_module(f"vpjax.{package}.{path.stem}")
        classes = (n for n, v in vars(module).items() if _is_public_class(v, module))
        names += [f"{path.stem}.{n}" for n in classes]
    return names


def construct(package: str, config: Mapping[str, Any], *args: Any, **fixed: Any) -> Any:
    """Calls what `config["name"]` stands for with the config's other keys as keyword arguments.

    Raises: UserError naming the right keys if one does not exist.
    """
    cls = lookup(package, config["name"])
    given = {k: v for k, v in config.items() if k != "name"}
    allowed = options(cls).keys() - fixed.keys()
    for key in given:
        if key not in allowed:
            raise unknown(f"key of {package} {config['name']!r}", key, allowed)
    return cls(*args, **given, **fixed)


def options(cls: type) -> dict[str, inspect.Parameter]:
    """Returns the options of a class: what its constructor takes by keyword or with a default.

    A constructor that passes `**inherited` on has the options of its base class too.
    Raises: TypeError if a constructor hides its options behind other **kwargs.
    """
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    optional = (p for p in parameters if p.kind is p.KEYWORD_ONLY or p.default is not p.empty)
    own = {p.name: p for p in optional if p.name != "rngs"}
    rest = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
    if rest and rest != ["inherited"]:
        raise TypeError(f"{cls.__name__}(**{rest[0]}) hides its options; write them out")
    return own | {k: v for k, v in options(cls.__base__).items() if k not in own} if rest else own


def _is_public_class(value: Any, module: Any) -> bool:
    mine = inspect.isclass(value) and value.__module__ == module.__name__
    return mine and not value.__name__.startswith("_")
