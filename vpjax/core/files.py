"""Files: the cache folder, atomic writes, files with a digest, locks between processes."""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vpjax.core import forms, reading
from vpjax.core.errors import InUse, UserError


def cache_folder() -> Path:
    """Return the folder for files that can be computed or downloaded again.

    The environment variable `VPJAX_CACHE` names it; else it is `vpjax` in the user's cache folder.
    """
    if named := os.environ.get("VPJAX_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vpjax"


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to `path` when the block ends.

    If the process is killed, the machine goes down or the block raises, the old file stays as it
    was: the new one is on the disk before it takes the name.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        yield new
        _sync(new)
        os.replace(new, path)
        _sync(path.parent)
    finally:
        new.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    folder = path.is_dir()
    if folder and os.name == "nt":  # which cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError:
        if not folder:  # some network file systems cannot sync folders
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder, which is renamed to `path` when the block ends.

    If the process is killed or the block raises, there is no folder `path`.

    Raises:
        UserError: if there is something at `path` already, but for an empty folder.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists already. Give a folder that does not, or an empty one.")
    if not path.absolute().parent.is_dir():
        raise UserError(f"there is no folder {path.absolute().parent}. Create it first.")
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        new.mkdir()
        yield new
        if path.exists():
            path.rmdir()
        os.replace(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def open_to_readers(path: Path) -> None:
    """Give a new file the permissions of the user's other files.

    Rust's library of safetensors makes files that their owner alone can read.
    """
    masked = os.umask(0)
    os.umask(masked)
    path.chmod(0o666 & ~masked)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with "\\n" line ends atomically, see `atomic`."""
    with atomic(path) as new:
        new.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, values: Any) -> None:
    """Write values as indented JSON atomically, see `atomic`."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def json_digest(values: Any) -> str:
    """Return the SHA-256 of values as JSON, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_sealed(path: Path, content: bytes) -> None:
    """Write bytes behind their SHA-256 atomically, for `read_sealed`."""
    with atomic(path) as new:
        new.write_bytes(hashlib.sha256(content).digest() + content)


def read_sealed(path: Path) -> bytes | None:
    """Return the bytes that `write_sealed` wrote; None if the file is missing or damaged."""
    try:
        seal, content = (whole := reading.read_bytes(path))[:32], whole[32:]
    except OSError:
        return None
    return content if hashlib.sha256(content).digest() == seal else None


def local_folder(path: str | os.PathLike) -> Path:
    """Return a path of this machine, with ~ for the user's home.

    Raises:
        UserError: for an address such as gs://bucket/run: a run locks, appends to and renames its
            files, which a bucket cannot.
    """
    text = os.fspath(path)
    if re.match(r"[a-z][a-z0-9+.-]*:/", text, re.IGNORECASE):
        raise UserError(
            f"{text} is an address, and a run needs a folder of this machine. Train in a folder "
            "and copy it when it is done, or mount the bucket as one."
        )
    return Path(text).expanduser()


def read_json(path: Path) -> Any:
    """Return the values of a JSON file; None if there is no such file.

    Raises:
        Damaged: if it is no JSON. What it must hold is checked by `vpjax.core.forms.read`.
    """
    return forms.parse(path) if path.exists() else None


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock for this process while the block runs.

    Args:
        path: the lock file; it is created and not deleted.
        wait: whether to wait until no other process holds it.

    Raises:
        InUse: if another process holds it and `wait` is False.
        OSError: if the file cannot be made.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as e:
        raise InUse(f"{path} is locked by another process. Wait for it, or stop it.") from e
    try:
        yield
    finally:
        lock.release()


def _number_in(owner: Path) -> str:
    try:
        text = reading.read_bytes(owner).decode("ascii", "replace").strip()
    except OSError:
        text = ""
    return text if text.isdecimal() else "unknown"


@contextlib.contextmanager
def lock_folder(workdir: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock a folder for this process while the block runs; create it if it does not exist.

    Args:
        workdir: the folder.
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
            write_text(owner, str(os.getpid()))
        except InUse as e:
            process = _number_in(owner)
            raise InUse(
                f"workdir {workdir} is in use by another run (process {process}). "
                "Wait for it, stop it, or give another --workdir."
            ) from e
        except OSError as e:
            raise UserError(
                f"workdir {workdir} cannot be written ({e.strerror}). Give another --workdir."
            ) from e
        yield
