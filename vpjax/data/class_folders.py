"""A folder for each class, below a folder for each split or alone.

    <path>/{train,val,test}/<class>/**/*.jpg        split words in any case, see `SPLIT_WORDS`
    <path>/<class>/**/*.jpg                         the split "train"
    <path>/<any one folder>/...                     either of them, as archives unpack

One folder that is called as a split, and holds folders, decides that the rest are no classes: they
are named in a warning. Hidden folders and what archives from macOS add are passed over.
"""

import functools
import logging
import os
import re
from pathlib import Path

from vpjax.core.errors import UserError
from vpjax.data.files import (
    Entry,
    Listed,
    Listing,
    composed,
    images_below,
    is_hidden,
    leads_upwards,
)
from vpjax.data.order import few, ordered

log = logging.getLogger(__name__)

SPLIT_WORDS = (  # names of one split
    frozenset({"train", "training"}),
    frozenset({"val", "valid", "validation", "dev"}),
    frozenset({"test", "testing"}),
)


def synonyms(word: str) -> frozenset[str]:
    """Return the names of the split that a word stands for, itself alone if it is none of ours."""
    return next((w for w in SPLIT_WORDS if word.casefold() in w), frozenset({word.casefold()}))


def is_split(word: str) -> bool:
    """Whether a word is the usual name of a split."""
    return synonyms(word) in SPLIT_WORDS


def class_folder(path: Path) -> Listing:
    """Read a folder whose subfolders are classes, or split with a subfolder for each class.

    Raises: UserError if `path` is no folder, or the folders of its splits hold no folders.
    """
    if not path.is_dir():
        raise UserError(f"{path} is no folder. Give the folder that holds a folder per class.")
    path = _unwrapped(path)
    below = subfolders(path)
    words = [name for name in below if is_split(name)]
    if not any(subfolders(path / name) for name in words):
        if below and len(words) == len(below):
            raise UserError(
                f"{path / below[0]} has no subfolders; each class needs one: "
                f"{path / below[0]}/<class>/<image>."
            )
        _check_classes(path, below)
        parts = {"train": functools.partial(_images, path, "", below)} if below else {}
        return Listing(path, parts, _names(below))
    if other := [name for name in below if name not in words]:
        log.warning("%s holds the splits %s; not read: %s", path, few(words), few(other))
    inside = {name: _split_folder(path, name) for name in words}
    parts = {
        name: functools.partial(_images, path, folder, subfolders(path / folder))
        for name, folder in inside.items()
    }
    trained = next((n for n in words if "train" in synonyms(n)), words[0])
    classes = subfolders(path / inside[trained])
    if not classes:
        raise UserError(f"{path / trained} has no subfolders; each class needs one.")
    return Listing(path, parts, _names(classes))


def _check_classes(path, folders):
    """Check that folders which are to be classes do not look like splits, or hold splits."""
    if folders and all(any(map(is_split, re.findall("[a-zA-Z]+", name))) for name in folders):
        raise UserError(
            f"{path} holds {few(folders)}: by their names splits, not classes. Call the folders "
            "train, val and test, with a folder for each class in each of them."
        )
    splits = {name: subfolders(path / name) for name in folders}
    splits = {name: words for name, words in splits.items() if words and all(map(is_split, words))}
    if not splits:
        return
    name, words = next(iter(splits.items()))
    raise UserError(
        f"{path / name} holds {few(words)}: splits in classes. "
        + (
            f"Put the splits above: {path / words[0] / name}/<image>."
            if len(splits) == len(folders)
            else f"If these are the data's, give folder:{path / name}."
        )
    )


def _names(folders):
    """Return the classes of folders; one name in two Unicode forms is one class."""
    return {name: name for name in ordered(composed(f) for f in folders)}


def _unwrapped(path):
    """Return the folder that an archive of one folder was meant for."""
    below = subfolders(path)
    if len(below) != 1 or is_split(below[0]):
        return path
    inner = path / below[0]
    folders = subfolders(inner)
    wrapped = len(folders) > 1 or any(map(is_split, folders))
    if not wrapped or any(e.is_file() and not is_hidden(e.name) for e in os.scandir(path)):
        return path
    if images_below(inner, deep=False):
        return path
    log.warning("%s holds nothing but %s, whose folders are read", path, below[0])
    return inner


def _split_folder(path, name):
    """Return a split's folder; train.zip may have been unpacked to train/train/."""
    below = subfolders(path / name)
    same = len(below) == 1 and synonyms(below[0]) == synonyms(name) and is_split(name)
    return f"{name}/{below[0]}" if same and subfolders(path / name / below[0]) else name


def subfolders(path: Path) -> list[str]:
    """Return the folders in a folder, sorted, without hidden ones and links that lead upwards."""
    found = sorted(e.name for e in os.scandir(path) if e.is_dir() and not is_hidden(e.name))
    return [name for name in found if not leads_upwards(path / name)]


def _images(path: Path, part: str, folders: list[str]) -> Listed:
    """Return (file, class) of the images in a split's class folders, however deep."""
    if not folders:
        raise UserError(f"{path / part} has no subfolders; each class needs one.")
    out, empty = [], []
    for name in folders:
        start = "/".join(filter(None, (part, name)))
        found = images_below(path / start)
        out += [Entry(f"{start}/{file}", composed(name)) for file in found]
        if not found:
            empty.append(name)
    if empty and out:
        log.warning("%s: no image in the folders of %s", path / part, few(empty))
    return out
