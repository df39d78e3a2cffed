"""The order of classes and files, which is part of what a label means."""

import hashlib
import unicodedata
from collections.abc import Iterable
from typing import Any

from vpjax.data.files import Key


def ordered(keys: Iterable[Key]) -> list[Key]:
    """Return distinct keys in order: as numbers if all are, else as text."""
    found = {str(k): k for k in keys}
    whole = all(k.isdecimal() for k in found)
    return [found[k] for k in sorted(found, key=(lambda k: (int(k), k)) if whole else str)]


def hashed(path: str) -> bytes:
    """Return what files are sorted by; a path's Unicode form, which disks change, is nothing."""
    return hashlib.sha256(unicodedata.normalize("NFC", path).encode("utf-8", "replace")).digest()


def few(names: Iterable[Any]) -> str:
    """Return the first ten names and the number of the others."""
    names = [str(n) for n in names]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
