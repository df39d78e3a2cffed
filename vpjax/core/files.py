"""Files: the cache folder, writes that leave no half of a file, locks of folders."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vpjax.core.errors import InUse, UserError


def cache_folder() -> Path:
    """Returns the folder for files that can be rebuilt.

    `VPJAX_CACHE` names it; otherwise it is `vpjax` in the user's cache folder.
    """
    if named := os.environ.get("VPJAX_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vpjax"


@contextlib.contextmanager
def lock_folder(workdir: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds `workdir` for this process; creates it if need be. `wait` until nobody else does.

    Raises: UserError if it cannot be written, InUse if another process holds it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / ".lock", "a+")  # noqa: SIM115 - held until the run ends
    except OSError as e:
        raise UserError(
            f"workdir {workdir} cannot be written ({e.strerror}). Give another --workdir."
        ) from e
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as e:
            lock.seek(0)
            raise InUse(
                f"workdir {workdir} is in use by another run (process {lock.read().strip()}). "
                "Wait for it, stop it, or give another --workdir."
            ) from e
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def write_json(path: Path, values: Any) -> None:
    """Writes JSON so that a killed process leaves the old file or the new, never half of one."""
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(values, indent=2) + "\n")
    new.replace(path)


def read_json(path: Path) -> Any:
    """Returns what a file holds; None if there is none."""
    return json.loads(path.read_text()) if path.exists() else None
