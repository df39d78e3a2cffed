"""What a JSON file of ours must hold: read and checked in one place, so that damage is a sentence.

    FORM = {"names": [str], "multilabel": bool, "images?": int, "counts?": ([int], None)}
    read(path, FORM, "Copy it again.")        its content; None without a file; else `Damaged`

A form is a type, a list with the form of its items, a tuple of alternatives, or an object: "key?"
may be missing, and `str` stands for all other keys. A bool is never a number.
"""

import json
from pathlib import Path
from typing import Any

from vpjax.core.errors import UserError
from vpjax.core.reading import read_bytes

NUMBER = (int, float)
ANY = object
COPY = "Restore it from a copy."
SHOWN = 60  # letters of a value in a message
HUGE = 2**63  # whole numbers from here on count nothing, and overflow where they are computed with


class Damaged(UserError):
    """A file of ours is not as it was written; those who can do without it go on."""


def parse(path: Path, advice: str = COPY) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file, which must be there.
        advice: what to do about a damaged one.

    Raises:
        Damaged: if it cannot be read, or is no JSON.
    """
    try:
        return json.loads(read_bytes(path).decode("utf-8"))
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or nested without end
        size = path.stat().st_size
        reason = "it is empty" if not size else f"it is no whole JSON file ({error})"
        raise Damaged(f"{path} is damaged: {reason}. {advice}") from error


def read(path: Path, form: Any, advice: str = COPY) -> Any:
    """Return the content of a JSON file of ours; None if there is no such file.

    Args:
        path: the file.
        form: what it must hold.
        advice: what to do about a damaged one.

    Raises:
        Damaged: if it is no JSON, or of another form.
    """
    if not path.exists():
        return None
    content = parse(path, advice)
    check(content, form, path, advice)
    return content


def check(content: Any, form: Any, path: Path | str, advice: str = COPY) -> None:
    """Check that a value has a form.

    Raises:
        Damaged: with the place of the first that is wrong.
    """
    if wrong := fault(content, form):
        raise Damaged(f"{path} is damaged: {wrong}. {advice}")


def fault(value: Any, form: Any, place: str = "") -> str:
    """Return what is wrong with a value, and where; "" if it has the form."""
    if isinstance(form, tuple):
        return "" if any(not fault(value, f) for f in form) else _not(value, form, place)
    if isinstance(form, list):
        if not isinstance(value, list | tuple):
            return _not(value, form, place)
        found = (fault(v, form[0], f"{place}[{i}]") for i, v in enumerate(value))
        return next(filter(None, found), "")
    if isinstance(form, dict):
        return _fault_of_object(value, form, place)
    if form is None:
        return "" if value is None else _not(value, form, place)
    if form is ANY:
        return ""
    if isinstance(value, int) and abs(value) >= HUGE:
        return _not(value, form, place)
    good = isinstance(value, form) and (form is bool or not isinstance(value, bool))
    return "" if good else _not(value, form, place)


def _fault_of_object(value, form, place):
    if not isinstance(value, dict):
        return _not(value, form, place)
    known = {key.removesuffix("?"): (key, f) for key, f in form.items() if key is not str}
    for name, (key, _) in known.items():
        if name not in value and not key.endswith("?"):
            return f"{place or 'it'} lacks {name!r}"
    for name, inner in value.items():
        rule = known[name][1] if name in known else form.get(str, ANY)
        if wrong := fault(inner, rule, f"{place}.{name}" if place else str(name)):
            return wrong
    return ""


def _not(value, form, place):
    shown = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"
    return f"{place or 'its content'} is {shown}, expected {_words(form)}"


def _words(form):
    if isinstance(form, tuple):
        return "a number" if form == NUMBER else " or ".join(map(_words, form))
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    names |= {None: "null", ANY: "anything", dict: "an object", list: "a list"}
    if isinstance(form, list | dict):
        return "a list" if isinstance(form, list) else "an object"
    return names.get(form, str(form))
