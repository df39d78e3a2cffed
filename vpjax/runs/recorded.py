"""The config that a run has recorded: made complete, and with what an evaluation may change.

Keys that vpjax has gained since get their defaults. Whatever decided what was learnt stays as it
was: an evaluation may be given other data, another place of the same weights, and other devices.
"""

import contextlib
import importlib.metadata
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpjax.core import forms
from vpjax.core.errors import UserError
from vpjax.runs import config as configs
from vpjax.runs import defaults, effect, model_file, places
from vpjax.train.checkpoint import read_metadata

log = logging.getLogger(__name__)

# Keys that an evaluation may change; all of a section where a name ends in a point.
CHANGEABLE = ("data.", "mesh.", "backbone.weights", "train.batch_size", "attention", "dtype")
CHANGEABLE += ("text.tokenizer",)
# Of these, those that leave the numbers what they are.
SAME_NUMBERS = ("mesh.", "train.batch_size", "attention", "data.eval_batch_size", "data.dir")
SAME_NUMBERS += ("text.tokenizer",)
SECTIONS = {"method": {"name": str}, "backbone?": {"name": str}, "data?": {"name": str}}
OWN_KEYS = ("study",)  # sections whose keys are the user's


def load(folder: Path, told: Sequence[str] = ()) -> ConfigDict:
    """Return the config of a run, complete, with the files it names where they lie now.

    Args:
        folder: of the run; or its model.safetensors alone, which holds the config too.
        told: keys that the user gives anew, see `vpjax.runs.places.found`.

    Raises:
        UserError: if there is no run, or its config has keys that this version does not know.
    """
    path = folder / "config.json"
    if not path.exists() and (file := model_file.find(folder)):
        return complete(configs.from_json(model_file.read_facts(file)["config"]), file)
    try:
        found = configs.load(path)
    except UserError:
        if (found := rebuilt(folder)) is None:
            raise
        log.warning("warning   %s is missing or damaged; the run's checkpoints say it all", path)
    else:
        _compare(found, folder)
    return places.found(complete(found, path), folder, told)


def _compare(config: ConfigDict, folder: Path) -> None:
    """Warn if a run's config.json says something else than its newest checkpoint."""
    ours, theirs = configs.flat(config), configs.flat(rebuilt(folder) or ConfigDict())
    free = (*CHANGEABLE, "loggers", "train.steps", "train.epochs")  # a run that goes on has others
    both = sorted(key for key in ours.keys() & theirs.keys() if not _among(key, free))
    if changed := [f"{k}: {ours[k]!r}, not {theirs[k]!r}" for k in both if ours[k] != theirs[k]]:
        log.warning(
            "warning   %s was edited or is damaged; its run had trained with other values:\n  %s",
            folder / "config.json",
            "\n  ".join(changed[:5]),
        )


def rebuilt(folder: Path) -> ConfigDict | None:
    """Return the config of a run from its newest checkpoint, or else from model.safetensors.

    Args:
        folder: of the run, whose config.json is missing or damaged.

    Returns:
        The config; None if there is nothing to take it from.
    """
    places = (p for p in folder.glob("checkpoints/*/[0-9]*") if p.name.isdigit())
    for place in sorted(places, key=lambda p: int(p.name), reverse=True):
        try:
            return configs.nested(read_metadata(place)["config"])
        except (OSError, ValueError, KeyError):
            continue
    if file := model_file.find(folder):
        with contextlib.suppress(UserError):
            return configs.from_json(model_file.read_facts(file)["config"])
    return None


def changes(folder: Path, config: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Return what a config changes of that of a run: {key: (recorded, now)}.

    Where the same weights lie is no change.
    """
    before, now = configs.flat(places.whole(load(folder))), configs.flat(places.whole(config))
    keys = sorted((before.keys() | now.keys()) - {"backbone.weights"})
    found = {key: (before.get(key), now.get(key)) for key in keys}
    return {key: pair for key, pair in found.items() if pair[0] != pair[1]}


def _among(key: str, names: Sequence[str]) -> bool:
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in names)


def changes_numbers(key: str) -> bool:
    """Return whether a key that an evaluation changes may change what it measures."""
    return not _among(key, SAME_NUMBERS)


def check_changes(config: ConfigDict, keys: Sequence[str], command: str) -> None:
    """Check that a command which reads a run may change these keys of its config, and uses them.

    Args:
        config: with their new values.
        keys: that were set by hand.
        command: such as "eval".

    Raises:
        UserError: with those it may change, if one is another, or has no effect.
    """
    for key in keys:
        if not _among(key, CHANGEABLE):
            allowed = ", ".join(f"{k}*" if k.endswith(".") else k for k in CHANGEABLE)
            raise UserError(
                f"config.{key} belongs to the training of this run and cannot change afterwards. "
                f"An evaluation takes {allowed}; for the rest train again in another --workdir."
            )
    effect.check(config, keys, command)


def complete(config: ConfigDict, path: Path) -> ConfigDict:
    """Return a config with the default of every key that it lacks.

    Args:
        config: as it was recorded.
        path: its file, for the message.

    Raises:
        UserError: if it has keys that this version of vpjax does not know.
    """
    forms.check(config.to_dict(), SECTIONS, path, configs.ADVICE)
    usual = defaults.get_config()
    sections = {"method": _options("methods", config), "backbone": _options("backbones", config)}
    strange = []
    for key, value in usual.items():
        if key in sections:
            continue
        if key not in config:
            config[key] = value
        elif isinstance(value, ConfigDict):
            _fill(config[key], value)
            if key not in OWN_KEYS:
                strange += [f"{key}.{name}" for name in config[key] if name not in value]
    strange += [key for key in config if key not in usual]
    for key, options in sections.items():
        if options is not None and key in config:
            _fill(config[key], options)
            strange += [f"{key}.{name}" for name in config[key] if name not in options]
    _check_kinds(config, usual, sections, path)
    if strange:
        raise UserError(
            f"{path} has keys that vpjax {importlib.metadata.version('vpjax')} does not know: "
            f"{', '.join(strange)}. The run is of another version; evaluate it with that one, "
            "which its result.json names."
        )
    return config


def _check_kinds(
    config: ConfigDict, usual: ConfigDict, sections: Mapping[str, ConfigDict | None], path: Path
) -> None:
    """Check that every value is of the kind of its default, as the command line would have it.

    Raises:
        Damaged: for the first that is not.
    """
    expected = usual.to_dict() | {k: v.to_dict() for k, v in sections.items() if v is not None}
    for key, value in config.to_dict().items():
        if key in OWN_KEYS or key not in expected:
            continue
        if isinstance(expected[key], dict) != isinstance(value, dict):
            raise forms.Damaged(f"{path} is damaged: {key} is {value!r:.60}. {configs.ADVICE}")
        pairs = value.items() if isinstance(value, dict) else [("", value)]
        for name, one in pairs:
            default = expected[key].get(name) if name else expected[key]
            where = f"{key}.{name}" if name else key
            if not _same_kind(one, default, loose=key in sections or where == "text.templates"):
                raise forms.Damaged(
                    f"{path} is damaged: {where} is {one!r:.60}, where {default!r:.60} is usual. "
                    f"{configs.ADVICE}"
                )


def _same_kind(value: Any, default: Any, loose: bool) -> bool:
    """Return whether a value may stand where a default does.

    Args:
        value: of a config.
        default: of the same key; None: anything may stand there.
        loose: whether several values may stand in the place of one, as in options of classes.
    """
    if value is None or default is None:
        return True
    if loose and isinstance(value, tuple) and not isinstance(default, bool):
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    for kind in ((int, float), str, tuple, dict):
        if isinstance(default, kind):
            return isinstance(value, kind)
    return True


def _fill(section: ConfigDict, usual: ConfigDict) -> None:
    for name, value in usual.items():
        if name not in section:
            section[name] = value


def _options(package: str, config: ConfigDict) -> ConfigDict | None:
    """Return a section with all options of the class; None if the class cannot be found here."""
    try:
        if package == "backbones":
            return defaults.backbone(config.backbone.name)
        return configs.section(package, config.method.name)
    except (UserError, AttributeError):
        return None  # a class of one's own, which a reader of results need not have
