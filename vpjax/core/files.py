"""Files: the cache folder, writes that leave no half of a file, locks between processes."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vpjax.core.errors import InUse, UserError


def cache_folder() -> Path:
    """Return the folder for files that can be rebuilt.

    `VPJAX_CACHE` names it; otherwise it is `vpjax` in the user's cache folder.
    """
    if named := os.environ.get("VPJAX_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vpjax"


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which becomes `path` when the block ends.

    A process that is killed, or a block that raises, leaves the old file or none.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        yield new
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with "\\n" line ends, see `atomic`."""
    with atomic(path) as new:
        new.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, values: Any) -> None:
    """Write indented JSON, see `atomic`."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Return what a file holds; None if there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`, which stays, for this process.

    Args:
        wait: whether to wait until no other process holds it.

    Raises:
        InUse: if another process holds it and `wait` is False.
        OSError: if the file cannot be made.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as e:
        raise InUse(f"{path} is held by another process.") from e
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def lock_folder(workdir: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process, and creates it if need be.

    Args:
        wait: whether to wait until no other process holds it.

    Raises:
        UserError: if the folder cannot be written.
        InUse: if another process holds it and `wait` is False.
    """
    owner = workdir / ".owner"
    with contextlib.ExitStack() as held:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(workdir / ".lock", wait=wait))
            owner.write_text(str(os.getpid()))
        except InUse as e:
            process = owner.read_text() if owner.exists() else "unknown"
            raise InUse(
                f"workdir {workdir} is in use by another run (process {process}). "
                "Wait for it, stop it, or give another --workdir."
            ) from e
        except OSError as e:
            raise UserError(
                f"workdir {workdir} cannot be written ({e.strerror}). Give another --workdir."
            ) from e
        yield
