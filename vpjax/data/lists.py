"""Readers of lists of files: tables, JSON files and text files, path -> `Listing`.

What all of them share, encodings, separators and what counts as a label, is in `vpjax.data.text`.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vpjax.core.errors import UserError
from vpjax.data.class_folders import is_split
from vpjax.data.decoders import extensions
from vpjax.data.files import Entry, Key, Listed, Listing
from vpjax.data.order import few, ordered
from vpjax.data.text import clean, count_from_zero, label, read_json, read_rows, read_text

COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path"),
    "label": ("label", "labels", "class", "class_name", "category", "target"),
    "split": ("split", "set", "subset"),
}
LINE = re.compile(r"(.*\S)\s*[\s,;]\s*(\S+)")


def csv_list(path: Path) -> Listing:
    """Read rows path,label[,split]; rows without a split belong to "train".

    A table with a column of zeros and ones for each class is read as well.

    Raises: UserError for a missing header or column, or a row without path or label.
    """
    rows = read_rows(path)
    heads = [cell.lower() for cell in rows[0][1]] if rows else []
    if not (known := {c: i for c, words in COLUMNS.items() if (i := _first(words, heads)) >= 0}):
        return _listing(path, _plain(path, rows))
    if "path" not in known:
        raise UserError(
            f"{path} has no column 'path'; its columns: {', '.join(heads)}. Expected one of "
            f"{', '.join(COLUMNS['path'])}."
        )
    if "label" not in known:
        return _listing(path, _one_hot(path, rows, known))
    return _listing(path, [(line, *_cells(path, line, row, known)) for line, row in rows[1:]])


Row = tuple[int, str, str, str]  # line, file, label, split


def _first(words: Sequence[str], heads: Sequence[str]) -> int:
    return next((heads.index(w) for w in words if w in heads), -1)


def _plain(path: Path, rows: list[tuple[int, list[str]]]) -> list[Row]:
    """Return the rows of a table without a header."""
    if rows and not _is_file(rows[0][1][0]) and any(_is_file(row[0]) for _, row in rows[1:]):
        raise UserError(
            f"{path}, line {rows[0][0]}: unknown columns {', '.join(rows[0][1])}. Call them path, "
            "label and, if there is one, split."
        )
    for line, row in rows:
        if len(row) > 3 and any(row[3:]):
            raise UserError(
                f"{path}, line {line}: {len(row)} columns and no header. Name them in a first "
                "line, path, label and, if there is one, split."
            )
    columns = {"path": 0, "label": 1, "split": 2}
    return [(line, *_cells(path, line, row, columns)) for line, row in rows]


def _is_file(cell):
    return Path(cell.replace("\\", "/")).suffix.lower() in extensions()


def _cells(path, line, row, columns):
    """Return file, label and split of a row."""
    file, key, split = (
        row[columns[c]] if c in columns and columns[c] < len(row) else ""
        for c in ("path", "label", "split")
    )
    if not (file and key):
        raise UserError(f"{path}, line {line}: the row {row} has no path or no label.")
    return file, key, split


def _one_hot(path: Path, rows: list[tuple[int, list[str]]], known: Mapping[str, int]) -> list[Row]:
    """Return the rows of a table with a column of zeros and ones for each class."""
    heads, out = rows[0][1], []
    classes = {i: name for i, name in enumerate(heads) if i not in known.values() and name}
    hot = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
    for line, row in rows[1:]:
        cells = {name: row[i] if i < len(row) else "" for i, name in classes.items()}
        if len(classes) < 2 or not any(v in hot for v in cells.values()):
            raise UserError(
                f"{path} has no column 'label'; its columns: {', '.join(heads)}. Expected one of "
                f"{', '.join(COLUMNS['label'])}, or a column of zeros and ones for each class."
            )
        if wrong := [(name, v) for name, v in cells.items() if v not in hot]:
            name, value = wrong[0]
            raise UserError(
                f"{path}, line {line}: column {name!r} holds {value!r}; expected 0 or 1, as in a "
                "column for each class."
            )
        on = [name for name, v in cells.items() if hot[v]]
        if len(on) != 1:
            raise UserError(
                f"{path}, line {line}: {len(on)} classes are 1 ({few(on) or 'none'}); a list gives "
                "each image one class. Images with several are read by vpjax.data.from_arrays."
            )
        row = [*row, on[0]]
        out.append((line, *_cells(path, line, row, {**known, "label": len(row) - 1})))
    return out


def _listing(path: Path, rows: list[Row]) -> Listing:
    """Return the listing of checked rows."""
    parts: dict[str, Listed] = {}
    for line, file, key, split in rows:
        name = split.casefold() if is_split(split) else split
        entry = Entry(clean(file), str(label(f"{path}, line {line}", key)), f"line {line}")
        parts.setdefault(name or "train", []).append(entry)
    return Listing(path.parent, {k: functools.partial(list, v) for k, v in parts.items()})


def json_splits(path: Path) -> Listing:
    """Read a folder with a JSON file for each split, {file: class id}.

    Ids may have gaps: a label is an id's rank among those of train.
    """

    def load(file):
        content = read_json(file)
        if wrong := next((k for k, v in content.items() if isinstance(v, bool | list | dict)), ""):
            raise UserError(
                f"{file} does not hold {{file: class id}}: {wrong!r} has {content[wrong]!r}."
            )
        return [
            Entry(clean(name), _whole(label(f"{file}, key {name!r}", v)), f"{file.name}, {name!r}")
            for name, v in content.items()
        ]

    return Listing(path, {f.stem: functools.partial(load, f) for f in sorted(path.glob("*.json"))})


def _whole(key: Key) -> Key:
    """Return "3" as 3: JSON files of one data set may have either."""
    return int(key) if str(key).isdecimal() else key


def text_lists(path: Path) -> Listing:
    """Read a folder with a text file for each split, lines "file label".

    Labels count from 0, and train need not show every class.
    """
    parts = {file.stem: _lines(file) for file in sorted(path.glob("*.txt"))}
    highest = max((entry.key for part in parts.values() for entry in part), default=-1)
    classes = {i: str(i) for i in range(highest + 1)}
    return Listing(path, {k: functools.partial(list, v) for k, v in parts.items()}, classes)


def _lines(file):
    out = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        match = LINE.fullmatch(line.strip())
        if not match:
            raise UserError(f"{where}: expected 'file label', found {line!r}.")
        try:
            key = count_from_zero(where, match[2])
        except UserError as error:
            raise UserError(f"{where}: expected 'file label', found {line!r}. {error}") from error
        out.append(Entry(clean(match[1].rstrip(",; \t")), key, f"{file.name}, line {number}"))
    return out


def zhou(path: Path) -> Listing:
    """Read one JSON file with all splits and the classes' names."""
    parts: dict[str, Listed] = {}
    names: dict[Key, str] = {}
    for split, part in read_json(path).items():
        if not isinstance(part, list):
            raise UserError(
                f"{path} does not hold {{split: [[file, label, name], ...]}}: {split!r} holds a "
                f"{type(part).__name__}."
            )
        parts[split] = [_triple(path, split, i, row, names) for i, row in enumerate(part)]
    classes = {key: names[key] for key in ordered(names)}
    return Listing(path.parent, {k: functools.partial(list, v) for k, v in parts.items()}, classes)


def _triple(path, split, index, row, names):
    """Return the entry of one row, and add its class to `names`."""
    where = f"{path}, {split}[{index}]"
    if not (
        isinstance(row, list) and len(row) == 3 and all(isinstance(row[i], str) for i in (0, 2))
    ):
        raise UserError(
            f"{path} does not hold {{split: [[file, label, name], ...]}}: {split}[{index}] is "
            f"{row!r}."
        )
    key = count_from_zero(where, row[1])
    if names.setdefault(key, row[2]) != row[2]:
        raise UserError(
            f"{where}: label {key} is called {row[2]!r}, and {names[key]!r} before. Keep one name."
        )
    return Entry(clean(row[0]), key, f"{split}[{index}]")
