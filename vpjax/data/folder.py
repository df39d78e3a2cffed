"""Image files on the disk: class folders, and lists of files in several formats.

    open_listing("folder", "/data/birds", "train[:90%]")   # config.data.name = "folder:/data/birds"

    folder    <path>/{train,val,test}/<class>/**/*.jpg, or <path>/<class>/**/*.jpg as split "train"
    csv       a file: path,label[,split]; a header may name the columns; or a column for each class
    fgvc      <path>/{train,val,test}.json, each {file: class id}, as VPT's authors publish them
    vtab1k    <path>/{train800,val200,...}.txt, lines "file label": VTAB-1k as image folders
    zhou      a file: {"train": [[file, label, class name], ...], "val": ..., "test": ...}
    nabirds, cub, gtsrb    those data sets as their authors pack them

The readers are in `class_folders.py`, `lists.py` and `archives.py`.

Classes are those of the split "train", in the order of their names (numbers: as numbers). A split
is ordered by a hash of its files' paths, so that a slice of it is a sample of all classes, and
files that are added later do not reorder the others. `READERS` at the end is the list of formats.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vpjax.core.errors import UserError, unknown
from vpjax.core.under import inside
from vpjax.data import archives, lists
from vpjax.data.class_folders import class_folder, synonyms
from vpjax.data.files import PHOTO, File, Files, Listing, place_of
from vpjax.data.locate import locate, sort_keys
from vpjax.data.order import few, ordered
from vpjax.data.records import select_split
from vpjax.data.sizes import common_shape
from vpjax.data.source import Source
from vpjax.data.text import check_alike, unique


def open_listing(kind: str, path: str, split: str, data_dir: Any = None) -> Source:
    """Open a split of image files.

    Args:
        kind: a format, a key of `READERS`.
        path: folder or file, relative to `data_dir` if that is given.
        split: split string, such as "train[:90%]".
        data_dir: folder that `path` is relative to.

    Raises:
        UserError: for a path, split or file that does not exist, a class that train lacks, a file
            with two classes, or data of one class.
    """
    place, listing = _listing(kind, path, data_dir)
    where = f"{kind}:{place.name}"
    root = Path(data_dir).expanduser() if data_dir else None
    root = root if root and inside(place, root) else None
    splits = listing.splits
    load = functools.cache(lambda name: unique(where, splits[_split(where, name, splits)]()))
    trained = _trained(splits)
    classes = listing.classes
    if classes is None:
        classes = {key: str(key) for key in ordered(entry.key for entry in load(trained))}
    check_alike(where, classes.values())
    labels = {key: i for i, key in enumerate(classes)}

    def files(name: str) -> list[File]:
        listed = load(name)
        for file, key, at in listed:
            if key not in labels:
                raise UserError(
                    f"{where}: {file}{at and f' ({at})'} of {name!r} has class {key!r}, which "
                    f"{trained!r} lacks. Its classes: {few(classes)}."
                )
        keys = {entry.key for entry in listed}
        if kind == "folder" and name == trained and len(keys) == 1:  # beside empty folders
            _refuse_one_class(where, keys.pop(), listing.folder)
        names = locate(where, listing.folder, listed, root)
        keys = sort_keys(names)
        order = sorted(range(len(names)), key=keys.__getitem__)
        return [(names[i], labels[listed[i].key]) for i in order]

    records = Files(listing.folder, select_split(split, files))
    if len(classes) == 1 and len(records):
        _refuse_one_class(where, next(iter(classes.values())), listing.folder)
    shape = common_shape(records) if kind in ("folder", "csv") else PHOTO
    source = Source(f"{where}[{split}]", list(classes.values()), records, shape)
    source.complete = any("train" in name.casefold() for name in splits)
    return source


def _refuse_one_class(where, name, folder):
    raise UserError(
        f"{where} has images of only one class, {name!r}, so there is nothing to tell apart. "
        f"Expected a folder or a label for each class in {folder}."
    )


def split_names(kind: str, path: str, data_dir: Any = None) -> tuple[str, ...]:
    """Return the names of the splits; see `open_listing` for arguments and errors."""
    return tuple(_listing(kind, path, data_dir)[1].splits)


def _listing(kind, path, data_dir):
    """Return the place of the data and what its reader found there."""
    place = place_of(path, data_dir)
    if not place.exists():
        raise UserError(
            f"{kind}:{path}: {place} does not exist. Say where it is: --config.data.name="
            f"{kind}:PATH, or --config.data.dir=DIR for the folder that it lies in."
        )
    listing = READERS[kind](place)
    if not listing.splits:
        raise UserError(
            f"{place} holds no images in the form of {kind!r}; see docs/data.md."
            + " A folder for each class is expected." * (kind == "folder")
        )
    return place, listing


def _trained(splits):
    """Return the split whose classes are those of the data set."""
    named = (name for name in splits if "train" in synonyms(name))
    return "train" if "train" in splits else next(named, next(iter(splits)))


def _split(where, name, known):
    """Return the listing's name of a split."""
    if name in known:
        return name
    same = [k for k in known if synonyms(k) == synonyms(name)]
    if len(same) > 1:
        raise UserError(
            f"split {name!r} of {where} may be any of {', '.join(sorted(same))}. Give one of them."
        )
    if same:
        return same[0]
    raise unknown(f"split of {where}", name, known)


READERS: dict[str, Callable[[Path], Listing]] = {
    "folder": class_folder,
    "csv": lists.csv_list,
    "fgvc": lists.json_splits,
    "vtab1k": lists.text_lists,
    "zhou": lists.zhou,
    "nabirds": archives.birds,
    "cub": archives.birds,
    "gtsrb": archives.signs,
}
