"""Paths that come from files, kept under the folder that they belong to.

below("data/birds", "train/a.jpg", "list.csv, line 7")    data/birds/train/a.jpg
below("data/birds", "../../x", ...)                       a UserError
own_file(run, "log.txt")                                  None if it leads out of the run
"""

import os
from pathlib import Path

from vpjax.core.errors import UserError

LONGEST = 255  # bytes that a file system's names have at most


def inside(path: str | os.PathLike, root: str | os.PathLike) -> bool:
    """Return whether a path, as it is written, lies below a folder; links are not followed.

    Data sets are put together by links; what counts is that a name does not climb out.
    """
    path, root = os.path.abspath(path), os.path.abspath(root)
    return path.startswith(root.rstrip("/") + "/") and "\0" not in path


def below(root: str | os.PathLike, name: str, where: str) -> Path:
    """Return root/name.

    Args:
        root: the folder.
        name: a relative path that a file gives.
        where: that file, for the message.

    Raises:
        UserError: if it is absolute, or leads out of the folder.
    """
    if os.path.isabs(name) or not inside(os.path.join(root, name), root):
        raise UserError(
            f"{where}: {name!r} leads out of {root}, and only paths below it are used. Mend the "
            "entry, or do not use the file if it is not yours."
        )
    return Path(root, name)


def plain_name(name: str, where: str) -> str:
    """Return a name that becomes one file or folder.

    Args:
        name: that a file gives.
        where: that file and the entry, for the message.

    Raises:
        UserError: if it is empty, too long, holds a slash or a control character, or is "." or
            "..".
    """
    if name.strip(". ") == "" or set(name) & set("/\\") or not name.isprintable():
        raise UserError(
            f"{where}: {name!r} is no name of a file or folder in one place: it must be "
            "without slashes, '..' and control characters. Mend the entry."
        )
    if len(os.fsencode(name)) > LONGEST:
        raise UserError(
            f"{where}: {name!r:.60} is too long for the name of a file or folder, which has "
            f"{LONGEST} bytes at most. Mend the entry."
        )
    return name


def own_file(folder: Path, name: str) -> Path | None:
    """Return a file of a folder; None if it is not there, or leads out of the folder by a link.

    A pipe or a device, of which reading may never end, counts as not there.

    Args:
        folder: such as a run's, which somebody else may have made.
        name: of the file, or of a folder.
    """
    path = folder / name
    if not (path.is_file() or path.is_dir()):
        return None
    found, home = path.resolve(), folder.resolve()
    return path if found.is_relative_to(home) else None
