"""Where the files that a run's config names lie, so that it can be used from any folder.

A config is recorded as it was given, with relative paths. place.json beside it says where these led
and where the run was. A run is read with whole paths; of files that have gone since, those are
taken that lie as before, seen from the run: a folder with runs and data may move as one.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpjax.core import forms
from vpjax.core.errors import UserError
from vpjax.core.files import write_json
from vpjax.data.folder import READERS
from vpjax.data.open import ORIGINALS
from vpjax.runs import config as configs

log = logging.getLogger(__name__)

FILE = "place.json"
FORM = {"run": str, "paths": {str: [str]}}
ADVICE = (
    "Restore it from a copy; or rename it, and relative paths of config.json are seen from the "
    "folder in which the command is given."
)
KINDS = (*READERS, *ORIGINALS)  # of data sets whose name holds a path
WEIGHTS = "backbone.weights"
# What an evaluation needs, as long as its config says so.
NEEDED = ("data.dir", "data.name", WEIGHTS, "text.tokenizer")


def save(config: ConfigDict, folder: Path) -> None:
    """Write config.json of a run, and place.json."""
    configs.save(config, folder / "config.json")
    paths = {key: [_get(config, key), path] for key, path in _paths(config)}
    write_json(folder / FILE, {"run": os.path.abspath(folder), "paths": paths})


def whole(config: ConfigDict) -> ConfigDict:
    """Return a copy of a config whose relative paths are whole, seen from the current folder."""
    config = config.copy_and_resolve_references()
    for key, path in _paths(config):
        _set(config, key, path)
    return config


def found(config: ConfigDict, folder: Path, told: Sequence[str] = ()) -> ConfigDict:
    """Return the config of a run with the whole paths of its files, where they lie now.

    Args:
        config: as it was recorded.
        folder: of the run.
        told: keys that the user gives anew; with "data.dir", "data.name" stays relative to it.
    """
    config = config.copy_and_resolve_references()
    record = read(folder)
    for key, (given, path) in record["paths"].items():
        if key in told or (key == "data.name" and "data.dir" in told):
            continue
        if _get(config, key) != given:  # somebody has edited config.json since
            continue
        moved = _beside(key, path, record["run"], folder)
        _set(config, key, moved if not _exists(path) and _exists(moved) else path)
    return config


def read(folder: Path) -> dict[str, Any]:
    """Return the content of place.json of a run; one without paths if there is no such file.

    Raises:
        Damaged: if it is not as a run writes it.
    """
    found = forms.read(folder / FILE, FORM, ADVICE) or {"run": "", "paths": {}}
    for key, pair in found["paths"].items():
        if len(pair) != 2 or "." not in key:
            raise forms.Damaged(f"{folder / FILE} is damaged at {key!r:.60}. {ADVICE}")
    return found


def _beside(key: str, path: str, run: str, folder: Path) -> str:
    """Return a path that lies, seen from the folder of a run, as it did from where the run was."""
    kind, colon, place = path.partition(":") if key == "data.name" else ("", "", path)
    return f"{kind}{colon}{os.path.abspath(os.path.join(folder, os.path.relpath(place, run)))}"


def check(config: ConfigDict, folder: Path, keys: Sequence[str] = NEEDED) -> None:
    """Check that the files which a run's config names are there; say which have moved.

    Args:
        config: of the run, see `found`.
        folder: of the run.
        keys: which of them.

    Raises:
        UserError: with the key of one that is not there, and how to say where it is now.
    """
    if "backbone" not in config:
        raise forms.Damaged(
            f"{folder / 'config.json'} is damaged: it lacks 'backbone'. {configs.ADVICE}"
        )
    paths, record = dict(_paths(config)), read(folder)
    for key in keys:
        path = paths.get(key, "")
        if not path and key == WEIGHTS:
            path = _lost_weights(config, record)
        if not path:
            continue
        if _exists(path):
            _, before = record["paths"].get(key, ("", path))
            if path != before and path == _beside(key, before, record["run"], folder):
                log.info("moved     config.%s is %s now, as seen from the run", key, path)
            continue
        how = f"--config.{key}=PATH"
        if key == "data.name":
            how = f"--config.data.name={path.partition(':')[0]}:PATH"
        python = ", or load_run(folder, weights=PATH) in Python" if key == WEIGHTS else ""
        raise UserError(
            f"config.{key} of the run {folder} is {path}, which does not exist here. Say where it "
            f"is now: {how}{python}."
        )


def same(key: str, ours: Any, theirs: Any) -> bool:
    """Return whether a key names the same files although they have moved: the old place is empty.

    Args:
        key: such as "data.dir".
        ours: its whole path now.
        theirs: that of a run which goes on, as `found` returns it.
    """
    if key not in (*NEEDED, "text.class_names", "train.start"):
        return False
    if not (isinstance(ours, str) and isinstance(theirs, str) and ours and theirs):
        return False
    if key == "data.name":
        kinds = {ours.partition(":")[0], theirs.partition(":")[0]}
        if len(kinds) > 1 or not kinds <= set(KINDS):
            return False
    return _exists(ours) and not _exists(theirs)


def _paths(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """Yield the keys that name files, with their whole paths."""
    data = config.data
    if data.get("dir"):
        yield "data.dir", _whole(data.dir)
    kind, colon, path = data.name.partition(":")
    if colon and kind in KINDS and not data.get("dir"):
        yield "data.name", f"{kind}:{_whole(path)}"
    for key in ("data.classes", WEIGHTS):  # names, unless there is such a file
        value = _get(config, key)
        if isinstance(value, str) and value and Path(value).expanduser().exists():
            yield key, _whole(value)
    for key in ("text.tokenizer", "text.class_names"):
        if value := _get(config, key):
            yield key, _whole(value)
    if start := _get(config, "train.start"):
        run, mark, checkpoint = start.partition("#")
        yield "train.start", _whole(run) + mark + checkpoint
    for name, value in config.method.items():  # options that are files, such as init_path
        if isinstance(value, str) and value and os.path.isfile(os.path.expanduser(value)):
            yield f"method.{name}", _whole(value)


def _lost_weights(config: ConfigDict, record: Mapping[str, Any]) -> str:
    """Return the place of weights that were a file and are no more; "": they are not lost."""
    where = config.backbone.get("weights", "")
    _, recorded = record["paths"].get(WEIGHTS, ("", ""))
    return where if where and (where == recorded or Path(where).expanduser().is_absolute()) else ""


def _exists(path: str) -> bool:
    kind, colon, place = path.partition(":")
    path = place if colon and kind in KINDS else path
    return os.path.exists(path.partition("#")[0])


def _whole(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _get(config: ConfigDict, key: str) -> Any:
    section, _, name = key.partition(".")
    return config[section].get(name) if section in config else None


def _set(config: ConfigDict, key: str, value: str) -> None:
    section, _, name = key.partition(".")
    if section in config and name in config[section]:
        config[section][name] = value
