"""Text and JSON that people write, read in one way, and checked in one way.

    read_text(path)     UTF-8 with or without mark, UTF-16, Windows-1252
    read_rows(path)     [(line, cells), ...] between commas, semicolons or tabs
    read_json(path)     an object whose keys are all different
    label(where, "3")   a class; -1, nan and fractions are none
    unique(where, ...)  finds files that are listed twice

Every message names the file and the line, or the key.
"""

import codecs
import csv
import json
import logging
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vpjax.core.errors import UserError
from vpjax.core.reading import read_bytes
from vpjax.data.files import Entry, Key

log = logging.getLogger(__name__)

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
NO_LABEL = ("nan", "null", "<na>", "n/a", "#n/a", "inf", "-inf")
HIGHEST = 100_000  # classes, where labels count from 0


def read_text(path: Path) -> str:
    """Return the text of a file, whichever of the usual encodings it is in.

    Raises: UserError if it cannot be read, or is no text.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Put it there.") from error
    try:
        text = _decoded(path, data)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no text in UTF-8, UTF-16 or Windows-1252 (byte {error.start}). Save it as "
            "UTF-8."
        ) from error
    if "\0" in text:
        raise UserError(f"{path} is no text: character {text.index(chr(0)) + 1} is NUL.")
    return text


def _decoded(path, data):
    if data.startswith(UTF16):
        return data.decode("utf-16")
    if b"\0" in data[:4]:  # UTF-16 without a mark: the first characters are Latin
        return data.decode("utf-16-be" if data[0] == 0 else "utf-16-le")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252")
        log.warning("%s is not UTF-8; it is read as Windows-1252", path)
        return text


def read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return line number and cells of every row that is not empty.

    Cells are separated by commas, semicolons or tabs, whichever the first row has most of.

    Raises: UserError for what is no text.
    """
    text = read_text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    between = max(",;\t", key=first.count)
    reader = csv.reader(text.splitlines(keepends=True), delimiter=between)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}.") from error
    return [(line, cells) for line, cells in rows if any(cells)]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises: UserError for broken JSON, another type, or a key that occurs twice with two values.
    """

    def unique_keys(pairs):
        out: dict[str, Any] = {}
        for key, value in pairs:
            if key in out and out[key] != value:
                raise UserError(
                    f"{path}: {key!r} occurs twice, with {out[key]!r} and {value!r}. Keep the "
                    "entry that is right."
                )
            if key in out:
                log.warning("%s: %r occurs twice, with the same value; it counts once", path, key)
            out[key] = value
        return out

    content = parse_json(path, unique_keys)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, expected a JSON object.")
    return content


def parse_json(path: Path, pairs_hook: Any = None) -> Any:
    """Return the content of a JSON file of any type.

    Raises: UserError with the line where it is broken.
    """
    try:
        return json.loads(read_text(path), object_pairs_hook=pairs_hook)
    except ValueError as error:
        raise UserError(
            f"{path} is no whole JSON file: {error}. Mend it, or fetch it again."
        ) from error
    except RecursionError as error:
        raise UserError(f"{path} is no list of images: it is nested too deeply.") from error


def check_alike(where: str, names: Iterable[str]) -> None:
    """Check that no two classes are called alike: "1" and "01"; "Cat" and "cat" are a warning.

    Args:
        where: the data set, for messages.
        names: of its classes.

    Raises:
        UserError: for one number in two spellings.
    """
    seen: dict[Any, str] = {}
    for name in names:
        key = name.lstrip("0") if name.isdecimal() else name.casefold()
        if (other := seen.setdefault(key, name)) == name:
            continue
        if name.isdecimal():
            raise UserError(
                f"{where}: classes {other!r} and {name!r} are one number in two spellings. "
                "Write it in one way."
            )
        log.warning("%s: classes %r and %r differ in case only", where, other, name)


def label(where: str, value: Any) -> Key:
    """Return a class as lists give it: a whole number from 0 as an integer, or a name.

    Args:
        where: of messages, such as "list.csv, line 7".
        value: a JSON value, or a cell's text.

    Raises:
        UserError: for -1, nan and their like, which mark images without a label, and fractions.
    """
    text = str(value).strip()
    number = _number(text)
    if value is None or not text or text.lower() in NO_LABEL or (number is not None and number < 0):
        raise UserError(
            f"{where}: label {value!r} marks an image without a label. Take such images out of the "
            "list; labels are names, or whole numbers from 0."
        )
    if isinstance(value, bool | list | dict) or (number is not None and number % 1):
        raise UserError(
            f"{where}: {value!r} is no class; labels are names, or whole numbers from 0."
        )
    if number is not None and (isinstance(value, float) or "." in text or "e" in text.lower()):
        return int(number)  # 3.0, as tables with gaps are saved
    return value if isinstance(value, int) else unicodedata.normalize("NFC", text)


def _number(text):
    """Return the value of a number, None for a name; 1_000 and infinity are names."""
    if "_" in text or not text.isascii():
        return None
    try:
        return float(text)
    except ValueError:
        return None


def count_from_zero(where: str, key: Key) -> int:
    """Return a label that counts from 0.

    Raises: UserError if it is no whole number, or would make too many classes.
    """
    found = label(where, key)
    if not str(found).isdecimal():
        raise UserError(f"{where}: label {key!r} is no whole number from 0.")
    if int(found) >= HIGHEST:
        raise UserError(
            f"{where}: label {key} would make {int(found) + 1:,} classes, because labels count "
            "from 0 here. Number the classes anew, or use a csv list, where ids may have gaps."
        )
    return int(found)


def clean(file: Any) -> str:
    """Return a listed file with "/" and without "./"; backslashes are those of Windows."""
    parts = str(file).strip().replace("\\", "/").split("/")
    return "/".join(p for i, p in enumerate(parts) if p != "." and (p or i == 0))


def unique(where: str, entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries, those that are listed twice with one label once, with a warning.

    Raises: UserError for a file with two labels.
    """
    seen: dict[str, Entry] = {}
    twice = []
    for entry in entries:
        first = seen.setdefault(unicodedata.normalize("NFC", entry.file), entry)
        if first is entry:
            continue
        if str(first.key) != str(entry.key):
            raise UserError(
                f"{where}: {entry.file} has class {first.key!r} in {first.where} and class "
                f"{entry.key!r} in {entry.where}. Keep the entry that is right."
            )
        twice.append(entry)
    if twice:
        log.warning(
            "%s: %d files are listed twice and count once; the first is %s, %s",
            *(where, len(twice), twice[0].file, twice[0].where),
        )
    return list(seen.values())
