"""Names that come from files, made harmless for what reads them: one function for each reader.

terminal(text)    no escape sequences, no text that runs backwards, no half characters
cell(value)       no formula in a spreadsheet; `plain` takes it back
markdown(text)    one line, shown as it is
html(text)        shown as it is, in texts and in attributes
fence(text)       a Markdown listing that its text cannot close
"""

import html as _html
import re
from typing import Any

# Control characters but for tab and line feed; marks that turn the direction of a text or break
# a line; halves of characters, which names of files that are no UTF-8 have.
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
FORMULA = "=+-@\t\r＝＋－＠"  # a spreadsheet takes a cell that begins so for a formula
MARK = "'"
_NUMBER = re.compile(r"-\d+(\.\d+)?([eE][-+]?\d+)?|-inf")  # as our own tables write them


def terminal(text: str) -> str:
    """Return a text that moves nothing on a terminal; what would, is written as in Python."""
    return _HARMFUL.sub(lambda found: _written(found[0]), text)


def _written(letter: str) -> str:
    if 0xDC80 <= ord(letter) <= 0xDCFF:  # a byte of a name that is no UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape", "backslashreplace").decode()


def controls(text: str) -> str:
    """Return a text like `terminal`, in which bytes of names that are no UTF-8 stay."""
    return _HARMFUL.sub(lambda m: m[0] if "\ud800" <= m[0] <= "\udfff" else _written(m[0]), text)


def one_line(text: str) -> str:
    """Return a text for a terminal in one line."""
    return " ".join(terminal(str(text)).split())


def cell(value: Any) -> Any:
    """Return a value for CSV: a text that a spreadsheet would take for a formula begins with '."""
    if not isinstance(value, str):
        return value
    value = controls(value)
    if not value.lstrip().startswith((*FORMULA, MARK)) or _NUMBER.fullmatch(value):
        return value
    return f"{MARK}{value}"


def plain(text: str) -> str:
    """Return a cell of our CSV files as it was before `cell`."""
    return text[1:] if text.startswith(MARK) else text


def markdown(text: str) -> str:
    """Return a text for Markdown, in one line."""
    for letter in "\\`*_<>[]$":
        text = text.replace(letter, "\\" + letter)
    return one_line(text)


def no_html(text: str) -> str:
    """Return Markdown of our own with names in it, in which no tag of HTML can begin."""
    return text.replace("<", "&lt;")


def fence(text: str) -> str:
    """Return a text as a listing of Markdown."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}\n{terminal(text).rstrip()}\n{marks}"


def html(text: str) -> str:
    """Return a text for HTML, between tags or in an attribute."""
    return _html.escape(terminal(text), quote=True)
