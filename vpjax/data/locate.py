"""Where listed files lie: beside the list, below a subfolder, or at the end of a foreign path.

locate("csv:l.csv", folder, listed)    paths relative to `folder`, as they are on the disk
"""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from vpjax.core.errors import UserError
from vpjax.core.under import inside
from vpjax.data.files import Finder, Listed
from vpjax.data.order import hashed

log = logging.getLogger(__name__)

DRIVE = re.compile(r"[A-Za-z]:/|//")
SAMPLE = 200  # files by which a place is chosen


def locate(where: str, folder: Path, listed: Listed, root: Path | None = None) -> list[str]:
    """Return the path of every listed file, relative to `folder` if it is below it.

    Args:
        where: the data set, for messages.
        folder: of the list.
        listed: its entries.
        root: folder that no file may lie outside of; None: `folder`.

    Raises:
        UserError: if a file is missing, with the number of them and the first; or if one lies
            outside of `root`.
    """
    names = [_relative(entry.file, folder) for entry in listed]
    on_disk = Finder(folder)
    found = [on_disk.find(name) for name in names]
    place = ""
    if None in found and (moved := _elsewhere(folder, on_disk, names)):
        place, moved_names = moved
        found = [on_disk.find(name) for name in moved_names]
    if lost := [i for i, file in enumerate(found) if file is None]:
        raise UserError(_lost(where, folder / place, listed, lost, on_disk))
    _check_inside(where, folder, listed, found, root or folder)
    return found


def _check_inside(where, folder, listed, found, root):
    """Check that no listed file lies outside of the root: somebody else may have made the list."""
    for entry, name in zip(listed, found, strict=True):
        if (os.path.isabs(name) or ".." in name) and not inside(os.path.join(folder, name), root):
            raise UserError(
                f"{where}: {entry.file!r}{entry.where and f' ({entry.where})'} lies outside of "
                f"{root}. If the list is your own, give a folder that holds it and the files: "
                "--config.data.dir=DIR, with the list's path in config.data.name relative to DIR."
            )


def sort_keys(names: Sequence[str]) -> list[bytes]:
    """Return what orders files: hashes of paths that do not tell where the data set lies."""
    absolute = [name for name in names if os.path.isabs(name)]
    above = os.path.commonpath([os.path.dirname(n) for n in absolute]) if absolute else ""
    return [hashed(os.path.relpath(n, above) if os.path.isabs(n) else n) for n in names]


def _relative(file, folder):
    """Return a path below `folder` relative to it, any other as it is."""
    if not os.path.isabs(file):
        return file
    for start in (os.path.abspath(folder), os.path.realpath(folder)):
        if file.startswith(start.rstrip("/") + "/"):
            return file[len(start.rstrip("/")) + 1 :]
    return file


def _elsewhere(folder, on_disk, names):
    """Return a place where more files lie than beside the list, and the names there; or None."""
    below = sorted(f"{p.name}/" for p in folder.iterdir() if p.is_dir())
    ways = [(p, [p + n for n in names]) for p in below]
    foreign = [n for n in names if os.path.isabs(n) or DRIVE.match(n)]
    if foreign:
        depth = min(n.count("/") for n in foreign)
        away = lambda n, k: "/".join(n.split("/")[k:]) if n in others else n  # noqa: E731
        others = frozenset(foreign)
        ways += [("", [away(n, k) for n in names]) for k in range(1, depth + 1)]
    step = max(1, len(names) // SAMPLE)
    count = lambda some: sum(n in on_disk for n in some[::step])  # noqa: E731
    best = max(ways, key=lambda way: count(way[1]), default=None)
    if best is None or count(best[1]) <= count(names):
        return None
    if not best[0]:
        log.warning("%s is read as %s, relative to %s", foreign[0], best[1][0], folder)
    return best


def _lost(where, place, listed, lost, on_disk):
    """Return the message about missing files."""
    first = listed[lost[0]]
    hint = ""
    if DRIVE.match(first.file):
        hint = " It is a path on Windows; write paths relative to the list."
    elif re.match("[a-z]+:/", first.file):
        hint = " It is an address, and only files are read."
    elif near := on_disk.nearest(first.file):
        hint = f" There is {near}."
    return (
        f"{where}: {len(lost)} of {len(listed)} files are not in {place}, the first is "
        f"{first.file}{first.where and f' ({first.where})'}.{hint} Put them there, or take them "
        "out of the list."
    )
