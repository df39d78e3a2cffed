"""What killed processes have left behind: half-written files and folders, deleted after a day.

`vpjax.core.files.atomic` names what it writes ".NAME.PROCESS.new" until it is whole; earlier
versions prepared data in ".incomplete-*".
"""

import contextlib
import logging
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(__name__)

DAY = 86400.0  # seconds: what is younger may be of a process that is still at work
PATTERNS = (".*.new", ".incomplete-*")


def clean(folders: Iterable[Path], age: float = DAY, patterns: Iterable[str] = PATTERNS) -> int:
    """Delete what is half-written in folders, not below them, and say so once.

    Args:
        folders: where to look; they need not exist.
        age: seconds since the last change. 0: at once, for the holder of the folder's lock.
        patterns: names of what is half-written.

    Returns:
        How many files and folders were deleted.
    """
    found = [p for folder in folders for pattern in patterns for p in folder.glob(pattern)]
    gone = []
    for path in found:
        with contextlib.suppress(OSError):  # of another user, or already gone
            if time.time() - path.lstat().st_mtime < age:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            gone.append(path)
    if gone:
        log.info("deleted   %d half-written leftovers, such as %s", len(gone), gone[0])
    return len(gone)
