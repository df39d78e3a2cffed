"""Configs: their sections, changes to them, and their form as JSON.

`section` writes out every option of the class that a config names. So a recipe states only what it
changes, the command line can set every option, and the config of a run is complete.
"""

import copy
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from vpjax.core import forms, registry
from vpjax.core.errors import UserError, unknown
from vpjax.core.files import write_text
from vpjax.weights.catalog import find_entry
from vpjax.weights.recognise import describe, of_entry

# What config.json of a run holds, as far as a reader of results uses it.
_NAMED = {"name": str}
FORM = {
    "method": _NAMED,
    "data": _NAMED | {f"{key}?": (str, None) for key in ("train", "val", "test", "dir", "preset")},
    "backbone?": _NAMED,
    "train?": {"select?": str, "patience?": forms.NUMBER},
    "seed?": int,
    "study?": {
        "label?": (str, None),
        "expected?": {
            "value?": (*forms.NUMBER, None),
            "tolerance?": (*forms.NUMBER, None),
            "source?": (str, None),
        },
    },
    **{f"{key}?": dict for key in ("optim", "text", "mesh")},
}
ADVICE = (
    "Restore it from a copy. A run that is not finished can also write it again: rename the file "
    "and give the command that trained the run."
)
# Keys of the backbone's section that are not the class's options.
NOT_OPTIONS = ("weights", "head", "resample")
# Arguments that are no options of a section: set for a whole run, or from its weights.
RUN_WIDE = {"attention", "match_reference_code", "mesh", "texts"}


def section(package: str, name: str, **chosen: Any) -> ConfigDict:
    """Return a section of a config: the name of a class, and every option of it.

    Args:
        package: "methods" or "backbones".
        name: of the class, such as "vpt.VPT".
        chosen: options that differ from their defaults.

    Raises:
        UserError: if the class or an option does not exist.
    """
    cls = registry.lookup(package, name)
    options = {k: v for k, v in registry.options(cls).items() if k not in RUN_WIDE}
    for key in chosen:
        if key not in options:
            raise unknown(f"key of {package} {name!r}", key, options)
    out = ConfigDict({"name": name})
    hints = {}
    for base in reversed(cls.__mro__):  # options may be inherited
        hints |= typing.get_type_hints(base.__init__)
    for key, parameter in options.items():
        value = chosen.get(key, parameter.default)
        out[key] = _placeholder(hints.get(key)) if value is None else value
    return out


def renamed(config: ConfigDict, part: str, name: str, given: Mapping[str, Any]) -> ConfigDict:
    """Return a section of a config for another class.

    Options that both classes have are kept where they differ from the old class's defaults; others
    are removed, and `given` is added.

    Args:
        config: with the old class.
        part: "method" or "backbone".
        name: of the new class.
        given: options of the new class.

    Raises:
        UserError: if the class, or an option in `given`, does not exist.
    """
    package = part + "s"
    known = registry.options(registry.lookup(package, name))
    old = config[part].to_dict()
    usual = registry.options(registry.lookup(package, old["name"]))
    kept = {k: v for k, v in old.items() if k in known and v != usual[k].default}
    new = section(package, name, **kept | dict(given))
    for key in NOT_OPTIONS:
        if key in old:
            new[key] = old[key]
    return new


def use_weights(config: ConfigDict, weights: str) -> None:
    """Set other weights of a config's backbone, in place.

    Options, and a preset, that only repeat what the old weights say are left to the new ones;
    others are choices of the recipe, and stay; options, where the class stays.

    Args:
        config: with the old weights.
        weights: a path, an address or a name. Where they do not say what they are, all the rest
            stays as it is.

    Raises:
        UserError: if the weights are missing, damaged or not supported.
    """
    found = describe(weights)
    old = config.backbone.to_dict()
    config.backbone.weights = weights
    if found is None:
        return
    cls, other = (registry.lookup("backbones", name) for name in (old["name"], found.name))
    entry, kept = find_entry(old["weights"]), {}
    if entry and config.data.preset == entry.preset:
        config.data.preset = "auto"
    if issubclass(cls, other) or issubclass(other, cls):
        said = of_entry(entry).options if entry and entry.backbone else {}
        usual = registry.options(cls)
        own = {k: v for k, v in old.items() if k in usual and v != usual[k].default}
        kept = {k: v for k, v in own.items() if k not in said or said[k] != v}
    name = old["name"] if issubclass(cls, other) else found.name
    new = section("backbones", name, **kept)
    for key in NOT_OPTIONS:
        new[key] = config.backbone[key]
    config.backbone = new


def merged(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """Return a copy of a config with nested changes.

    Args:
        config: to start from.
        changes: {section: {key: value}}. A `name` in "method" or "backbone" changes the class;
            without one, other `weights` of a backbone do, if they say what they are.

    Raises:
        UserError: for a class or option that does not exist, or weights that cannot be read.
    """
    config = copy.deepcopy(config)  # empty entries keep their types, for the command line
    for key, value in changes.items():
        if not isinstance(value, Mapping | ConfigDict):
            config[key] = value
            continue
        value = dict(value)
        if "name" in value and key in ("method", "backbone"):
            options = {k: v for k, v in value.items() if k not in ("name", *NOT_OPTIONS)}
            config[key] = renamed(config, key, value["name"], options)
            value = {k: v for k, v in value.items() if k not in options}
        elif key == "backbone" and value.get("weights"):
            use_weights(config, value["weights"])
        config[key].update(value)
    return config


def save(config: ConfigDict, path: Path) -> None:
    """Write the resolved config as JSON."""
    write_text(path, json.dumps(config.to_dict(), indent=2, default=list) + "\n")


def load(path: Path) -> ConfigDict:
    """Read a config that `save` wrote.

    Raises:
        UserError: if the file is missing, or damaged.
    """
    try:
        content = forms.parse(path, ADVICE)
    except forms.Damaged as e:
        if isinstance(e.__cause__, FileNotFoundError | NotADirectoryError):
            raise UserError(
                f"{path} does not exist, so {path.parent} is no run of vpjax. Train first, or give "
                "the --workdir of a run."
            ) from e
        raise
    forms.check(content, dict, path, ADVICE)
    if {"method", "data"} <= content.keys():  # else it is another program's
        forms.check(content, FORM, path, ADVICE)
    try:
        return from_json(content)
    except (ValueError, TypeError, AttributeError) as e:  # of ConfigDict: a key it cannot have
        raise forms.Damaged(f"{path} is damaged: {e}. {ADVICE}") from e


def from_json(values: Mapping[str, Any]) -> ConfigDict:
    """Return the config whose JSON values these are: lists become tuples again."""
    return ConfigDict(tuples(values))


def nested(values: Mapping[str, Any]) -> ConfigDict:
    """Return the config whose values by key, {"optim.lr": 0.1, ...}, these are; see `flat`."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        *above, name = key.split(".")
        section = out
        for part in above:
            section = section.setdefault(part, {})
        section[name] = value
    return from_json(out)


def differences(ours: ConfigDict, theirs: ConfigDict) -> list[str]:
    """Return a line for every key on which two configs differ."""
    a, b = flat(ours), flat(theirs)
    none = "absent"
    return [
        f"{key}: {a.get(key, none)!r} now, {b.get(key, none)!r} there"
        for key in sorted(a.keys() | b.keys())
        if a.get(key, none) != b.get(key, none)
    ]


def flat(config: ConfigDict) -> dict[str, Any]:
    """Return a config as {"optim.lr": 0.1, ...}, with the values that JSON keeps."""
    out = {}

    def visit(value, path):
        if isinstance(value, Mapping) and value:
            for key, child in value.items():
                visit(child, f"{path}.{key}" if path else key)
        else:
            out[path] = value

    visit(tuples(json.loads(json.dumps(config.to_dict(), default=list))), "")
    return out


def tuples(value: Any) -> Any:
    """Return JSON values with tuples in the place of lists, as configs hold them."""
    if isinstance(value, list):
        return tuple(tuples(v) for v in value)
    if isinstance(value, dict):
        return {k: tuples(v) for k, v in value.items()}
    return value


def _placeholder(hint: Any) -> Any:
    """Return an empty config entry of a type, which the command line may fill."""
    kinds = [t for t in typing.get_args(hint) if t is not type(None)]
    kind = kinds[0] if kinds and isinstance(kinds[0], type) else object
    return config_dict.placeholder(kind)
