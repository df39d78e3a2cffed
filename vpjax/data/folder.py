"""Image files on the disk: class folders, and lists of files in several formats.

    open_listing("folder", "/data/birds", "train[:90%]")   # config.data.name = "folder:/data/birds"

    folder    <path>/{train,val,test}/<class>/**/*.jpg, or <path>/<class>/**/*.jpg as split "train"
    csv       a file: path,label[,split]; a header may name the columns
    fgvc      <path>/{train,val,test}.json, each {file: class id}, as VPT's authors publish them
    vtab1k    <path>/{train800,val200,...}.txt, lines "file label": VTAB-1k as image folders
    zhou      a file: {"train": [[file, label, class name], ...], "val": ..., "test": ...}
    nabirds, cub, gtsrb    those data sets as their authors pack them, see `archives.py`

Classes are those of the split "train", in the order of their names (numbers: as numbers). A split
is ordered by a hash of its files' paths, so that a slice of it is a sample of all classes, and
files that are added later do not reorder the others. `READERS` at the end is the list of formats.
"""

import csv
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vpjax.core.errors import UserError, unknown
from vpjax.data import archives
from vpjax.data.files import PHOTO, File, Files, Finder, Key, Listed, Listing, images_below
from vpjax.data.records import select_split
from vpjax.data.source import Source

NAMES = ("train", "val", "valid", "validation", "test")  # of splits, as folders
SYNONYMS = ({"val", "valid", "validation"},)  # names of one split
COLUMNS = {"path": ("path", "file", "filename", "image"), "label": ("label", "class")}


def open_listing(kind: str, path: str, split: str, data_dir: Any = None) -> Source:
    """Open a split of image files.

    Args:
        kind: a format, a key of `READERS`.
        path: folder or file, relative to `data_dir` if that is given.
        split: split string, such as "train[:90%]".
        data_dir: folder that `path` is relative to.

    Raises:
        UserError: for a path, split or file that does not exist, or a class that train lacks.
    """
    place = Path(data_dir or "").expanduser() / Path(path).expanduser()
    if not place.exists():
        raise UserError(f"{kind}:{path}: {place} does not exist.")
    listing = READERS[kind](place)
    if not listing.splits:
        raise UserError(f"{place} holds no images in the form of {kind!r}; see docs/data.md.")
    where = f"{kind}:{place.name}"
    load = functools.cache(lambda name: listing.splits[_split(where, name, listing.splits)]())
    classes = listing.classes
    if classes is None:
        classes = {key: str(key) for key in ordered(key for _, key in load(_trained(listing)))}
    labels = {key: i for i, key in enumerate(classes)}

    def files(name: str) -> list[File]:
        listed = load(name)
        for file, key in listed:
            if key not in labels:
                raise UserError(
                    f"{where}: {file} of {name!r} has class {key!r}, which {_trained(listing)!r} "
                    f"lacks. Its classes: {_few(classes)}."
                )
        prefix = _prefix(where, listing.folder, listed)
        found = [(prefix + file, labels[key]) for file, key in listed]
        return sorted(found, key=lambda f: hashlib.sha256(f[0].encode()).digest())

    records = Files(listing.folder, select_split(split, files))
    return Source(f"{where}[{split}]", list(classes.values()), records, PHOTO)


def _trained(listing):
    """Return the split whose classes are those of the data set."""
    return "train" if "train" in listing.splits else next(iter(listing.splits))


def _split(where, name, known):
    """Return the listing's name of a split."""
    if name in known:
        return name
    for names in SYNONYMS:
        if name in names and (other := names & known.keys()):
            return min(other)
    raise unknown(f"split of {where}", name, known)


def _few(names: Iterable[Any]) -> str:
    names = [str(n) for n in names]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _prefix(where, folder, listed):
    """Return the subfolder, "" or "images/", that listed files are relative to.

    Raises: UserError if a file is missing.
    """
    if not listed:
        return ""
    on_disk, first = Finder(folder), listed[0][0]
    below = sorted(f"{p.name}/" for p in folder.iterdir() if p.is_dir())
    prefix = next((p for p in ("", *below) if p + first in on_disk), "")
    lost = [file for file, _ in listed if prefix + file not in on_disk]
    if lost:
        raise UserError(
            f"{where}: {len(lost)} of {len(listed)} files are not in {folder / prefix}, the first "
            f"is {lost[0]}. Put them there, or take them out of the list."
        )
    return prefix


def ordered(keys: Iterable[Key]) -> list[Key]:
    """Return distinct keys in order: as numbers if all are, else as text."""
    found = {str(k): k for k in keys}
    whole = all(k.isdecimal() for k in found)
    return [found[k] for k in sorted(found, key=int if whole else str)]


def class_folder(path: Path) -> Listing:
    """Read a folder whose subfolders are classes, or split with a subfolder for each class."""
    if not path.is_dir():
        raise UserError(f"{path} is no folder. Give the folder that holds a folder per class.")
    below = _subfolders(path)
    if below and set(below) <= set(NAMES):
        parts = {name: functools.partial(_images, path, name) for name in below}
        trained = path / ("train" if "train" in below else below[0])
        classes = _subfolders(trained)
    else:
        parts = {"train": functools.partial(_images, path, "")} if below else {}
        classes = below
    if parts and not classes:
        raise UserError(f"{trained} has no subfolders; each class needs one.")
    return Listing(path, parts, {c: c for c in classes})


def _subfolders(path):
    return sorted(e.name for e in os.scandir(path) if e.is_dir() and e.name[0] != ".")


def _images(path, part):
    """Return (file, class) of the images in a split's class folders, however deep."""
    out = []
    for name in _subfolders(path / part):
        start = "/".join(filter(None, (part, name)))
        out += [(f"{start}/{file}", name) for file in images_below(path / start)]
    return out


def csv_list(path: Path) -> Listing:
    """Read rows path,label[,split]; rows without a split belong to "train"."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(row)]
    columns = {"path": 0, "label": 1, "split": 2}
    heads = [cell.lower() for cell in rows[0]] if rows else []
    if any(word in heads for word in COLUMNS["label"]):
        columns = {"split": heads.index("split") if "split" in heads else len(heads)}
        for column, words in COLUMNS.items():
            if not (known := [w for w in words if w in heads]):
                raise UserError(f"{path} has no column {column!r}; its columns: {', '.join(heads)}")
            columns[column] = heads.index(known[0])
        rows = rows[1:]
    parts: dict[str, Listed] = {}
    for number, row in enumerate(rows, 1):
        if len(row) < 2 or not (row[columns["path"]] and row[columns["label"]]):
            raise UserError(f"{path}: row {number} of the data, {row}, has no path or no label.")
        split = row[columns["split"]] if len(row) > columns["split"] else ""
        parts.setdefault(split or "train", []).append((row[columns["path"]], row[columns["label"]]))
    return Listing(path.parent, {k: functools.partial(list, v) for k, v in parts.items()})


def json_splits(path: Path) -> Listing:
    """Read a folder with a JSON file for each split, {file: class id}.

    Ids may have gaps: a label is an id's rank among those of train.
    """

    def load(file):
        content = _json(file)
        if not all(isinstance(v, int | str) for v in content.values()):
            raise UserError(f"{file} does not hold {{file: class id}}.")
        return list(content.items())

    return Listing(path, {f.stem: functools.partial(load, f) for f in sorted(path.glob("*.json"))})


def text_lists(path: Path) -> Listing:
    """Read a folder with a text file for each split, lines "file label".

    Labels count from 0, and train need not show every class.
    """
    parts = {file.stem: _lines(file) for file in sorted(path.glob("*.txt"))}
    highest = max((label for part in parts.values() for _, label in part), default=-1)
    classes = {i: str(i) for i in range(highest + 1)}
    return Listing(path, {k: functools.partial(list, v) for k, v in parts.items()}, classes)


def _lines(file):
    out = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        name, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not name or not label.isdecimal():
            raise UserError(f"{file}, line {number}: expected 'file label', found {line!r}.")
        out.append((name.strip(), int(label)))
    return out


def zhou(path: Path) -> Listing:
    """Read one JSON file with all splits and the classes' names."""
    content = _json(path)
    try:
        rows = {split: [(f, int(c), n) for f, c, n in part] for split, part in content.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} does not hold {{split: [[file, label, name], ...]}}.") from error
    names = {label: name for part in rows.values() for _, label, name in part}
    classes = {key: names[key] for key in ordered(names)}
    parts = {k: functools.partial(list, [(f, c) for f, c, _ in v]) for k, v in rows.items()}
    return Listing(path.parent, parts, classes)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is no whole JSON file: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, expected a JSON object.")
    return content


READERS: dict[str, Callable[[Path], Listing]] = {
    "folder": class_folder,
    "csv": csv_list,
    "fgvc": json_splits,
    "vtab1k": text_lists,
    "zhou": zhou,
    "nabirds": archives.birds,
    "cub": archives.birds,
    "gtsrb": archives.signs,
}
