"""Image files to predict: from files, folders, lists of paths, and standard input.

    find_photos(["holiday/", "one.jpg", "more.csv", "-"])

A list is a text file with a path a line, or a table (.csv, .tsv) with a column "path" or the like;
its paths are relative to its folder, or else to the working folder. "-" is standard input, a path a
line. A path that leads nowhere is noted, and the others go on.
"""

import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vpjax.core.errors import UserError
from vpjax.data.class_folders import is_split
from vpjax.data.files import composed, images_below
from vpjax.data.lists import COLUMNS
from vpjax.data.text import clean, read_rows, read_text

TABLES = (".csv", ".tsv")
LISTS = (".txt", ".lst", *TABLES)
STDIN = "-"


class Photo(NamedTuple):
    """A file, and the class that its folder or its list gives it; "" if none does."""

    path: str
    label: str = ""


class Photos(NamedTuple):
    """Files that are there, in order, and why others are not: {path: reason}."""

    found: list[Photo]
    lost: dict[str, str]


def find_photos(
    where: Sequence[str | os.PathLike], stdin: io.BufferedIOBase | None = None
) -> Photos:
    """Return the image files of paths, folders and lists; of folders at any depth.

    Args:
        where: paths of images, folders and lists, and "-".
        stdin: what "-" reads; None: this process's.

    Raises:
        UserError: for a list that cannot be read.
    """
    out = Photos([], {})
    for given in map(os.fspath, where):
        if given == STDIN:
            lines = (stdin or sys.stdin.buffer).read().split(b"\n")
            _add(out, ((os.fsdecode(line.rstrip(b"\r")), "") for line in lines), Path())
        elif given.lower().endswith(LISTS) and os.path.isfile(os.path.expanduser(given)):
            path = Path(given).expanduser()
            table = path.suffix.lower() in TABLES
            _add(out, _rows(path) if table else _lines(path), path.parent)
        else:
            _add(out, [(given, "")], Path())
    return out


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    return ((line, "") for line in read_text(path).splitlines())


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    """Yield path and class of the rows of a table."""
    rows = read_rows(path)
    heads = [cell.lower() for cell in rows[0][1]] if rows else []
    at = {kind: [heads.index(w) for w in COLUMNS[kind] if w in heads] for kind in COLUMNS}
    if at["path"]:
        rows = rows[1:]
    elif any(at.values()):
        raise UserError(
            f"{path} has no column 'path'; its columns: {', '.join(heads)}. Expected one of "
            f"{', '.join(COLUMNS['path'])}."
        )
    file, label = (at["path"] or [0])[0], (at["label"] or ([] if at["path"] else [1]))[:1]
    for _, cells in rows:
        name = cells[label[0]] if label and label[0] < len(cells) else ""
        yield (cells[file] if file < len(cells) else ""), name


def _add(out: Photos, entries: Iterable[tuple[str, str]], beside: Path) -> None:
    for given, label in entries:
        if not given.strip():
            continue
        path = _place(given, beside)
        if path is None:
            out.lost[given] = "there is no such file"
        elif os.path.isdir(path):
            _add_folder(out, path, label)
        else:
            out.found.append(Photo(path, composed(label)))


def _place(given: str, beside: Path) -> str | None:
    """Return where a path leads: beside its list, or from the working folder."""
    for name in dict.fromkeys([given, given.strip(), clean(given)]):
        for path in (os.path.join(beside, os.path.expanduser(name)), os.path.expanduser(name)):
            if os.path.exists(path):
                return path
    return None


def _add_folder(out: Photos, folder: str, label: str) -> None:
    names = sorted(images_below(Path(folder)))
    if not names:
        out.lost[folder] = "it and its subfolders hold no images that vpjax reads"
    for name in names:
        parts = name.split("/")[:-1]
        if len(parts) > 1 and is_split(parts[0]):
            parts = parts[1:]
        own = label or (parts[0] if parts else "")
        out.found.append(Photo(os.path.join(folder, name), composed(own)))
