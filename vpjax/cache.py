"""Where vpjax keeps what it can make or fetch again: weights, digits, compiled programs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Returns the folder for files that can be rebuilt.

    `VPJAX_CACHE` names it; otherwise it is `vpjax` in the user's cache folder.
    """
    if named := os.environ.get("VPJAX_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vpjax"
