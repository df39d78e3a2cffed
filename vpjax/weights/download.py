"""Weights by path, by web address or by known name, as a file on this machine.

    fetch("vit_b16_in21k")  ->  ~/.cache/vpjax/weights/ViT-B_16.npz

A download grows in `<file>.part` and is renamed only when it has the announced size, the announced
MD5 and a readable table of contents, so a file under its final name is complete. An interrupted
download goes on where it stopped, also in another process, as long as the server still has the same
version of the file. `<file>.sha256` remembers the content, and every later use checks it.

A machine without network needs nothing of this: every failure says which file to download
elsewhere and where to put it.
"""

import base64
import contextlib
import difflib
import errno
import fcntl
import hashlib
import http.client
import json
import os
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

from tqdm import tqdm

from vpjax.core.errors import UserError, unknown
from vpjax.core.files import cache_folder
from vpjax.weights.catalog import CATALOG

WEIGHTS = (".npz", ".safetensors", ".pth", ".pth.tar", ".pt")
ASSETS = Path(__file__).parent / "assets"
CHUNK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without an answer
RETRIES = 4  # attempts in a row that bring nothing, once something has come
PAUSE = 1.0  # seconds before the first of them, doubled each time
EVERY = 10.0  # seconds between plain progress lines


def fetch(where: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> Path:
    """Returns the local file of `where`: a path, an http(s) address, or a name in `KNOWN`.

    Downloads go to `cache_dir`, by default `$VPJAX_CACHE/weights` or `~/.cache/vpjax/weights`:
    known names under their public file name, other addresses under host and path.
    Raises: UserError if there is no such file or name, if it cannot be downloaded or stored, or if
    a cached file changed.
    """
    where = os.fspath(where)
    folder = Path(cache_dir) if cache_dir else default_cache()
    folder = folder.expanduser()
    if where in CATALOG:
        known = CATALOG[where]
        if not known.url:
            return ASSETS / known.file
        return _cached(known.url, folder / known.file, known.digest)
    if where.startswith(("http://", "https://")):
        return _cached(where, folder / _place(where), None)
    if "://" in where:
        hint = ""
        if where.startswith("gs://"):
            address = where.replace("gs://", "https://storage.googleapis.com/", 1)
            hint = f" For a public bucket give {address}"
        raise UserError(
            f"cannot fetch {where}: expected a path, an http(s) address or a name.{hint}"
        )
    path = Path(where).expanduser()
    if path.is_file():
        return path
    raise _missing(where, path)


def sha256(path: str | os.PathLike) -> str:
    """Returns the hexadecimal SHA-256 of a file, read in pieces."""
    return _digest(Path(path), "sha256")


def default_cache() -> Path:
    """Returns the folder of downloaded weights."""
    return cache_folder() / "weights"


# Names and places


def _place(url: str) -> Path:
    # Host and path, not the last name alone: ViT-B_16.npz exists in four folders of one bucket.
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise UserError(f"{url} is not a web address: {error}.") from error
    names = [name for name in parts.path.split("/") if name not in ("", ".", "..")]
    if not names:
        raise UserError(f"{url} names no file. Expected an address that ends in a file name.")
    if parts.query:
        names.insert(-1, hashlib.sha256(parts.query.encode()).hexdigest()[:12])
    return Path(parts.netloc.rpartition("@")[2].replace(":", "_"), *names)


def _missing(where: str, path: Path) -> UserError:
    if where and path.is_dir():
        inside = [f.name for f in path.iterdir() if f.name.endswith(WEIGHTS)]
        found = f"It holds: {', '.join(sorted(inside))}." if inside else "It holds no weights."
        return UserError(f"{where} is a folder; expected a file of weights. {found}")
    if "/" not in where and not path.suffix:
        return unknown("weights", where, CATALOG)
    folder = path.parent
    if not folder.is_dir():
        found = f"The folder {folder} does not exist either."
    else:
        names = sorted(f.name for f in folder.iterdir())
        near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
        found = f"Near it in {folder}: {', '.join(near)}." if near else "No file there is like it."
    # A public file name stands for its known name, so both are compared.
    titles = {known.file: name for name, known in CATALOG.items()} | {
        name: name for name in CATALOG
    }
    near = difflib.get_close_matches(path.name, titles, n=3, cutoff=0.6)
    names = list(dict.fromkeys(titles[title] for title in near)) or sorted(CATALOG)
    return UserError(
        f"there is no file {where}. {found} Known names to use instead: {', '.join(names)}."
    )


def _by_hand(url: str, target: Path, reason: str) -> UserError:
    return UserError(
        f"cannot fetch {target.name}: {reason}\n"
        f"On a machine that can, download\n    {url}\n"
        f"and put it here as\n    {target.absolute()}\n"
        "or give the path of a copy you have instead of the name."
    )


# The cache


def _cached(url: str, target: Path, digest: str | None) -> Path:
    try:
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            with _locked(target):
                if not target.is_file():  # another process may have finished it meanwhile
                    _download(url, target, digest)
        _remembered(url, target, digest)
    except OSError as error:  # network failures have become UserErrors before: this is the disk
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = f"the disk is full ({error})."
        else:
            reason = f"the cache cannot be used ({error})."
        reason += " Free some space or set VPJAX_CACHE to a folder you can write to."
        raise _by_hand(url, target, reason) from error
    return target


def _remembered(url: str, target: Path, digest: str | None) -> None:
    """Compares the file with the content it had at its first use, or remembers that content."""
    note = target.with_name(target.name + ".sha256")
    now = sha256(target)
    if note.is_file():
        was = note.read_text(encoding="utf-8").split()[:1]
        if was != [now]:
            raise UserError(
                f"the cached file {target} changed: its sha256 is {now}, and {note.name} says "
                f"{' '.join(was) or 'nothing'}. Delete both files to download it again, or "
                f"{note.name} alone if the change was meant."
            )
        return
    # First use: just downloaded, or put here by hand.
    if reason := _damage(target, None, digest):
        raise UserError(f"{target} is not usable: {reason} Delete it, or download it again:\n{url}")
    with contextlib.suppress(OSError):  # a shared, read-only cache still serves
        _write(note, f"{now}  {target.name}\n")  # as `sha256sum -c` reads it


@contextlib.contextmanager
def _locked(target: Path):
    # The lock file stays: removing it would let two processes hold two locks of one name.
    with open(target.with_name(target.name + ".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{target.name}: another process downloads it; waiting", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# The download


def _download(url: str, target: Path, digest: str | None) -> None:
    part = target.with_name(target.name + ".part")
    note = target.with_name(target.name + ".part.json")  # size, version and md5 as announced
    first = most = _size(part)
    failures = 0
    while True:
        try:
            complete = _receive(url, target, part, note)
            reason = "the connection ended before the file did"
        except (urllib.error.URLError, http.client.HTTPException, _Cut) as error:
            complete, reason = False, _explain(error)
        if complete:
            break
        # Only more than ever before counts as progress: a server that ignores Range may send
        # the same beginning for ever.
        failures = 0 if _size(part) > most else failures + 1
        most = max(most, _size(part))
        if most == first or failures > RETRIES:
            kept = f" {_mib(_size(part))} are kept; run again to go on." if _size(part) else ""
            raise _by_hand(url, target, f"{reason}.{kept}")
        time.sleep(PAUSE * 2**failures)

    if reason := _damage(part, _announced(note), digest):
        part.unlink()
        note.unlink(missing_ok=True)
        raise _by_hand(url, target, reason)
    os.replace(part, target)
    note.unlink(missing_ok=True)


class _Cut(Exception):
    """The connection broke before the end of the file."""


def _receive(url: str, target: Path, part: Path, note: Path) -> bool:
    """Appends what one answer of the server brings; True when all of the file is there."""
    known, done = _announced(note), _size(part)
    resumable = known.get("url") == url and known.get("version") and known.get("size")
    if not resumable or done > known["size"]:
        done = 0
    elif done == known["size"]:
        return True  # the process was stopped between the last byte and the renaming
    with contextlib.closing(_ask(url, done, known.get("version"))) as answer:
        if answer.headers.get_content_type() == "text/html":
            raise _by_hand(url, target, _HTML)
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if done and answer.status == http.client.PARTIAL_CONTENT:
            span = f"bytes {done}-{known['size'] - 1}/{known['size']}"
            stale = answer.headers.get("Content-Range") != span or version != known["version"]
        else:  # all of it: the server ignores Range, or has another version now
            done = stale = 0
            length = answer.headers.get("Content-Length")
            known = {
                "url": url,
                "size": None if length is None else int(length),
                # A weak tag promises the same meaning, not the same bytes.
                "version": None if version is None or version.startswith("W/") else version,
                "md5": _google_md5(answer.headers),
            }
            part.unlink(missing_ok=True)  # before the note, or old bytes would pass for new
            _write(note, json.dumps(known))
        if not stale:
            _store(answer, part, done, known["size"])
    if stale:
        part.unlink()
        return _receive(url, target, part, note)  # from the first byte, so at most once
    return known["size"] is None or _size(part) == known["size"]


def _ask(url: str, done: int, version: str | None):
    headers = {"User-Agent": "vpjax", "Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": version}
    try:
        request = urllib.request.Request(url, headers=headers)
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if done and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _ask(url, 0, None)  # the file on the server became shorter
        raise
    except urllib.error.URLError:
        raise
    except OSError as error:  # only the disk may raise a plain OSError past this point
        raise _Cut(f"the connection broke ({error or type(error).__name__})") from error


def _store(answer, part: Path, done: int, size: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if size is not None and size - done > free:
        text = f"{_mib(size - done)} to come, {_mib(free)} free"
        raise OSError(errno.ENOSPC, text, str(part.parent))
    meter = _Meter(part.name.removesuffix(".part"), done, size)
    with open(part, "ab" if done else "wb") as file, contextlib.closing(meter):
        while True:
            try:
                piece = answer.read(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _Cut(f"the connection broke ({error or type(error).__name__})") from error
            if not piece:
                break
            file.write(piece)
            meter.add(len(piece))
        file.flush()
        os.fsync(file.fileno())


# Checks

_HTML = "the server sent a web page instead of the file: a login page, a proxy or a wrong address."


def _damage(path: Path, announced: dict | None, digest: str | None) -> str:
    """Says what is wrong with a complete download; empty if nothing is."""
    with open(path, "rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return _HTML
    md5 = (announced or {}).get("md5")
    if md5 and (found := _digest(path, "md5")) != md5:
        return f"its MD5 is {found}, and the server announced {md5}: it was damaged on the way."
    if digest:
        algorithm, _, prefix = digest.partition(":")
        if not (found := _digest(path, algorithm)).startswith(prefix):
            return f"its {algorithm} is {found}, and the published one begins with {prefix}."
    if path.name.removesuffix(".part").endswith(".npz"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except zipfile.BadZipFile as error:
            return f"it is not a complete npz file ({error}; {path.stat().st_size} bytes)."
        if not any(name.endswith(".npy") for name in names):
            return "it is a zip file without arrays, not an npz file."
    return ""


def _explain(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"no connection to the server ({error.reason})"
    return str(error) or type(error).__name__


def _google_md5(headers) -> str | None:
    # "x-goog-hash: crc32c=...,md5=..." in one header or in two; composite files have no md5.
    for item in ",".join(headers.get_all("x-goog-hash", [])).split(","):
        name, _, value = item.strip().partition("=")
        if name == "md5":
            return base64.b64decode(value).hex()
    return None


def _announced(note: Path) -> dict:
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


# Progress


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"


class _Meter:
    """A bar on a terminal; elsewhere a whole line now and then and one at the end."""

    def __init__(self, name: str, done: int, size: int | None):
        self.name, self.done, self.size = name, done, size
        self.first, self.start = done, time.monotonic()
        self.shown = self.start
        self.bar = None
        if sys.stderr.isatty():
            self.bar = tqdm(
                total=size,
                initial=done,
                desc=name,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                # tqdm shows nothing on a terminal that does not know its size, as in containers.
                ncols=shutil.get_terminal_size().columns,
                nrows=shutil.get_terminal_size().lines,
            )

    def add(self, count: int) -> None:
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif time.monotonic() - self.shown >= EVERY:
            self.show()

    def show(self) -> None:
        self.shown = time.monotonic()
        rate = (self.done - self.first) / max(self.shown - self.start, 1e-9)  # bytes a second
        text = f"{self.name}  {_mib(self.done)}"
        if self.size:
            seconds = round((self.size - self.done) / rate) if rate else 0
            text += f" of {_mib(self.size)}  {self.done / self.size:.0%}  {_mib(rate)}/s"
            text += f"  ETA {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        else:
            self.show()
