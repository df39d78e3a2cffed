"""Config keys on the command line: `--config.method.num_tokens=16`.

`take` finds them among the words, `apply` sets them. A value is read as the kind of value that the
key has: text becomes a number where there is a number. `--config.method.name` and
`--config.backbone.name` choose another class, whose options are then the keys of that section; the
order on the command line does not matter. `--config.backbone.weights` alone chooses class and
options too, where the weights say them.
"""

import ast
import re
import types
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vpjax.cli import published
from vpjax.core.errors import UserError, unknown

if TYPE_CHECKING:
    from ml_collections import ConfigDict

SECTIONS = ("method", "backbone")  # of a config, whose `name` is a class
WEIGHTS = "backbone.weights"
WORDS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "values such as (0,1)",
    list: "values such as (0,1)",
    types.NoneType: "None",
}

Override = tuple[str, str | None]  # key such as "optim.lr", and its value if there is one


def take(words: Sequence[str]) -> tuple[list[Override], list[str]]:
    """Split a command line into config keys and all other words.

    `--config.key=value`, `--config.key value`, and for a bool also `--config.key` and
    `--noconfig.key`.
    """
    found, rest, words = [], [], list(words)
    while words:
        word = words.pop(0)
        match = re.fullmatch(r"--(no)?config\.([^=]*)(?:=(.*))?", word, re.DOTALL)
        if not match:
            rest.append(word)
            continue
        no, key, value = match.groups()
        if no:
            value = "False"
        elif value is None and words and not words[0].startswith("--"):
            value = words.pop(0)
        found.append((key, value))
    return found, rest


def apply(config: "ConfigDict", changes: Sequence[Override]) -> "ConfigDict":
    """Set keys of a config, in place; of a key given twice the last value holds.

    Raises:
        UserError: for a key or class that does not exist, with the nearest that do, and for a
            value of another kind.
    """
    from vpjax.runs.config import renamed, use_weights  # here: its class may need jax

    names = {f"{part}.name": part for part in SECTIONS}
    weights = [value for key, value in changes if key == WEIGHTS and value]
    if weights and not any(key == "backbone.name" for key, _ in changes):
        use_weights(config, weights[-1])
    for key, value in changes:
        if key in names and value is not None:
            config[names[key]] = renamed(config, names[key], value, {})
    for key, value in changes:
        if key not in names or value is None:
            set_key(config, key, value)
    settle(config, [key for key, _ in changes])
    return config


def settle(config: "ConfigDict", keys: Sequence[str]) -> None:
    """Write what papers call a data set as the name that opens it, if that was set by hand."""
    if "data.name" in keys:
        from vpjax.data.open import known_as  # here: it opens data

        config.data.name = known_as(config.data.name, config.data.dir or None)


def set_key(config: "ConfigDict", key: str, text: str | None) -> None:
    """Set one key of a config from its text.

    Raises:
        UserError: for a key that does not exist, with the nearest, or a value of another kind.
    """
    from ml_collections import ConfigDict

    section, at = config, "config"
    *path, last = key.split(".")
    if path[:1] and path[0] not in config and (text := published.hint(key)):
        raise UserError(f"there is no config.{key}. {text}")
    for name in path:
        _find(config, section, at, name, last)
        section, at = section[name], f"{at}.{name}"
        if not isinstance(section, ConfigDict):
            raise UserError(f"{at} is {section!r}, no section: there is no config.{key}")
    _find(config, section, at, last, last)
    where = f"{at}.{last}"
    if isinstance(section[last], ConfigDict):
        keys = ", ".join(section[last]) or "none"
        raise UserError(f"{where} is a section; give one of its keys ({keys}) a value")
    kinds = _kinds(config, section, path, last)
    if text is None:
        if bool not in kinds:
            raise UserError(f"{where} has no value; write --{where}=VALUE")
        text = "True"
    value = _read(text, kinds, where)
    with section.ignore_type():  # of several kinds a config knows one
        section[last] = value


def _find(config: "ConfigDict", section: "ConfigDict", at: str, name: str, last: str) -> None:
    """Raise a UserError if a section does not have a key."""
    if name in section:
        return
    error = unknown(f"key of {at}", name, section)
    found = [f"config.{key}" for key in _keys(config) if key.rpartition(".")[2] == last]
    if found := [key for key in found if not key.startswith("config.study.")]:
        error = UserError(f"{error} There is {', '.join(found)}.")
    raise error


def _keys(config: "ConfigDict", path: str = "") -> list[str]:
    out = []
    for name, value in config.items():
        inner = isinstance(value, type(config))
        out += _keys(value, f"{path}{name}.") if inner else [f"{path}{name}"]
    return out


def _kinds(config: "ConfigDict", section: "ConfigDict", path: list[str], last: str) -> list[type]:
    """Return the kinds of values that a key takes; [] if any."""
    from vpjax.core import registry
    from vpjax.runs import defaults

    if path and path[0] in SECTIONS and len(path) == 1 and last != "name":
        cls = registry.lookup(f"{path[0]}s", section.name)
        if last in registry.options(cls):
            hint = _hints(cls).get(last, object)
            union = typing.get_origin(hint) in (typing.Union, types.UnionType)
            kinds = typing.get_args(hint) if union else (hint,)
            kinds = [typing.get_origin(kind) or kind for kind in kinds]
            if all(kind in KINDS for kind in kinds):
                return kinds
    kind = section.get_type(last)
    if kind not in KINDS or kind is types.NoneType:
        return []
    usual: Any = defaults.get_config()
    for name in [*path, last]:
        usual = usual.get(name, "") if hasattr(usual, "get") else ""
    return [kind] if usual is not None else [kind, types.NoneType]


def _hints(cls: type) -> dict[str, Any]:
    """Return the types of a constructor's arguments, inherited ones too."""
    out = {}
    for base in reversed(cls.__mro__):
        out |= typing.get_type_hints(base.__init__)
    return out


def _read(text: str, kinds: list[type], where: str) -> Any:
    """Return the value that `text` stands for, of the first kind that it can be."""
    if not kinds:
        return _literal(text)
    # Text can be anything, so it comes last.
    for kind in sorted(kinds, key=lambda kind: (kind is str, kind is not types.NoneType)):
        if kind is tuple and len(kinds) > 1 and "," not in text:
            continue
        try:
            return _as(kind, text)
        except ValueError:
            continue
    raise UserError(f"{where} is {text!r}; expected {' or '.join(KINDS[kind] for kind in kinds)}")


def _as(kind: type, text: str) -> Any:
    if kind is types.NoneType:
        if text != "None":
            raise ValueError
        return None
    if kind is bool:
        if text.lower() not in WORDS:
            raise ValueError
        return WORDS[text.lower()]
    if kind in (tuple, list):
        value = _literal(text)
        if isinstance(value, str):  # words without quotes
            value = tuple(_literal(word.strip()) for word in value.strip("()").split(",") if word)
        return kind(value if isinstance(value, tuple | list) else (value,))
    return kind(text)


def _literal(text: str) -> Any:
    """Return the Python literal that `text` is, else `text`."""
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (SyntaxError, ValueError):
        return text
