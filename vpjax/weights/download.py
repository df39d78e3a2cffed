"""Weights by path, web address or name in the catalogue, as a file on this machine.

    fetch("vit_b16_in21k")  ->  ~/.cache/vpjax/weights/ViT-B_16.npz

A download grows in `<file>.part`, with what the server announced, and the digest of what has
arrived, in `<file>.part.json`. It is renamed only when it has the announced size, the announced MD5
and is whole by its own table of contents (`vpjax.weights.whole`), so a file under its final name is
complete. An interrupted download goes on where it stopped, also in another process, as long as the
server still has the same version of the file and what was kept still has its digest.
`<file>.sha256` holds the digest of the content, and every later use compares the file with it.

On a machine without network nothing needs to be downloaded: every failure says which file to
download elsewhere and where to put it.
"""

import base64
import contextlib
import difflib
import errno
import hashlib
import http.client
import os
import re
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from vpjax.core import files, forms
from vpjax.core.errors import InUse, UserError, unknown
from vpjax.core.forms import Damaged
from vpjax.core.progress import DownloadBar
from vpjax.weights import whole
from vpjax.weights.catalog import CATALOG

SUFFIXES = (".npz", ".safetensors", ".pth", ".pth.tar", ".pt", ".bin", ".msgpack", ".ckpt")
ASSETS = Path(__file__).parent / "assets"
CHUNK = 1 << 20  # bytes
NOTED = 1 << 26  # bytes after which what has arrived is noted
# What is noted of a download that is not whole.
NOTE = {"url": str, "size": (int, None), "version": str, "md5": (str, None)}
NOTE |= {"arrived?": int, "sha256?": str}
TIMEOUT = 30.0  # seconds without an answer
PAUSE = 1.0  # seconds before going on after the connection was cut
# Errors of the network; other OSErrors are of the disk.
NETWORK = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)
NETWORK += (ssl.SSLError,)
WEB_PAGE = (
    "the server sent a web page instead of the file: a login page, a proxy or a wrong address."
)


def fetch(where: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> Path:
    """Return the file of weights `where`, after downloading it if need be.

    Args:
        where: a path, an http(s) address, or a name in `vpjax.weights.catalog.CATALOG`.
        cache_dir: where downloads are kept: files of the catalogue under their public name, other
            addresses under host and path. Default: `$VPJAX_CACHE/weights`, else
            `~/.cache/vpjax/weights`.

    Raises:
        UserError: if there is no such file or name, if it cannot be downloaded or stored, or if a
            cached file has changed.
    """
    where = os.fspath(where)
    folder = Path(cache_dir or files.cache_folder() / "weights").expanduser()
    if where in CATALOG:
        entry = CATALOG[where]
        if not entry.url:
            return ASSETS / entry.file
        return _cached(entry.url, folder / entry.file, entry.digest)
    if where.startswith(("http://", "https://")):
        return _cached(where, folder / _place(where), None)
    if "://" in where:
        public = where.replace("gs://", "https://storage.googleapis.com/", 1)
        hint = f" For a public bucket give {public}" if public != where else ""
        raise UserError(
            f"cannot fetch {where}: expected a path, an http(s) address or a name.{hint}"
        )
    path = Path(where).expanduser()
    if path.is_file():
        return path
    raise _not_found(where, path)


def sha256(path: str | os.PathLike) -> str:
    """Return the hexadecimal SHA-256 of a file, read in pieces."""
    return _digest(path, "sha256")


def digest_of(parts: Sequence[Path]) -> str:
    """Return the SHA-256 of a file; of several, that of what `sha256sum` writes of them."""
    if len(parts) == 1:
        return sha256(parts[0])
    lines = "".join(f"{sha256(part)}  {part.name}\n" for part in parts)
    return hashlib.sha256(lines.encode()).hexdigest()


def _place(url: str) -> Path:
    # Host and path, not the last name only: ViT-B_16.npz exists in four folders of one bucket.
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


def _not_found(where: str, path: Path) -> UserError:
    if where and path.is_dir():
        inside = sorted(f.name for f in path.iterdir() if f.name.endswith(SUFFIXES))
        found = f"It holds: {', '.join(inside)}." if inside else "It holds no weights."
        return UserError(f"{where} is a folder; expected a file of weights. {found}")
    if path.exists():
        return UserError(f"{where} is no plain file; expected a file of weights")
    if "/" not in where and not path.suffix:
        return unknown("weights", where, CATALOG)
    found = f"The folder {path.parent} does not exist either."
    if path.parent.is_dir():
        inside = sorted(os.listdir(path.parent))
        near = [f for f in inside if path.name and f.startswith(f"{path.name}.")]
        near = near or difflib.get_close_matches(path.name, inside, cutoff=0.5)
        found = (
            f"Near it in {path.parent}: {', '.join(near)}." if near else "No similar file there."
        )
    names = {entry.file: name for name, entry in CATALOG.items()} | {n: n for n in CATALOG}
    near = [names[n] for n in difflib.get_close_matches(path.name, names)] or sorted(CATALOG)
    near = ", ".join(dict.fromkeys(near))
    text = f"there is no file {where}. {found} Names that can be given instead: {near}."
    if "/" not in where and not where.endswith(SUFFIXES):
        text += f" A model of timm in the hub's cache is timm/{where}."
    return UserError(text)


def _by_hand(url: str, target: Path, reason: str) -> UserError:
    return UserError(
        f"cannot fetch {target.name}: {reason}\n"
        f"On a machine that can, download\n    {url}\n"
        f"and put it here as\n    {target.absolute()}\n"
        "or give the path of a copy you have instead of the name."
    )


def _cached(url: str, target: Path, digest: str | None) -> Path:
    try:
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            with _locked(target):
                if not target.is_file():  # another process may have finished it meanwhile
                    _download(url, target, digest)
        _check_unchanged(url, target, digest)
    except OSError as error:  # network failures have become UserErrors before: this is the disk
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else "the cache cannot be used"
        advice = "Free some space or set VPJAX_CACHE to a folder you can write to."
        raise _by_hand(url, target, f"{reason} ({error}). {advice}") from error
    return target


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    path = target.with_name(target.name + ".lock")
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(files.locked(path, wait=False))
        except InUse:
            print(f"{target.name}: another process downloads it; waiting", file=sys.stderr)
            held.enter_context(files.locked(path))
        yield


def _check_unchanged(url: str, target: Path, digest: str | None) -> None:
    """Compare the file with the digest of its first use, or write that down."""
    note, now = target.with_name(target.name + ".sha256"), sha256(target)
    if note.is_file():
        was = " ".join(note.read_text(encoding="utf-8", errors="replace").split()[:1])
        if was != now:
            raise UserError(
                f"the cached file {target} changed: its sha256 is {now}, and {note.name} says "
                f"{was or 'nothing'}. Delete both files to download it again, or {note.name} only "
                "if you meant to change it."
            )
        return
    if reason := _damage(target, target.name, None, digest):  # put here by hand
        raise UserError(f"{target} is not usable: {reason} Delete it, or download it again:\n{url}")
    with contextlib.suppress(OSError):  # a shared, read-only cache still serves
        files.write_text(note, f"{now}  {target.name}\n")  # as `sha256sum -c` reads it


def _download(url: str, target: Path, digest: str | None) -> None:
    part, note = (target.with_name(target.name + end) for end in (".part", ".part.json"))
    complete = False
    while not complete:
        before, reason = _size(part), "the connection ended before the file did"
        try:
            complete = _receive(url, target, part, note)
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"the server answered {error.code} {error.reason}"
        except NETWORK as error:
            reason = f"no connection to the server ({getattr(error, 'reason', error)})"
        if not complete:
            # A server that ignores Range may send the same beginning for ever.
            if _size(part) <= before:
                kept = f" {before / 2**20:.1f} MiB are kept; run again to go on." if before else ""
                raise _by_hand(url, target, f"{reason}.{kept}")
            time.sleep(PAUSE)
    announced = files.read_json(note)
    sized = announced["size"] is not None
    reason = _damage(part, target.name, announced["md5"], digest, sized)
    part.unlink() if reason else part.replace(target)
    note.unlink()
    if reason:
        raise _by_hand(url, target, reason)


def _receive(url: str, target: Path, part: Path, note: Path) -> bool:
    """Append what one answer of the server brings; return whether the file is complete."""
    known, arrived = _kept(url, part, note)
    size, version, done = known.get("size"), known.get("version"), _size(part)
    if done and done == size:
        return True  # the process was stopped between the last byte and the renaming
    request = urllib.request.Request(url, headers={"User-Agent": "vpjax"})
    if done:
        request.headers |= {"Range": f"bytes={done}-", "If-Range": version}
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if not done or error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        answer = error  # the file on the server became shorter
    with answer:
        headers = answer.headers
        tag = headers.get("ETag") or headers.get("Last-Modified") or ""
        span = f"bytes {done}-{(size or 0) - 1}/{size}"
        if not done or answer.status == http.client.OK:  # the whole file from its first byte
            if headers.get_content_type() == "text/html":
                raise _by_hand(url, target, WEB_PAGE)
            done, size = 0, int(headers.get("Content-Length", 0)) or None
            md5 = re.search(r"md5=([\w+/=]+)", ",".join(headers.get_all("x-goog-hash", [])))
            part.unlink(missing_ok=True)  # before the note, or old bytes would pass for new
            arrived = hashlib.sha256()
            # A weak tag, W/"...", promises the same meaning, not the same bytes.
            known = {"url": url, "size": size, "version": "" if tag.startswith("W/") else tag}
            known |= {"md5": md5 and base64.b64decode(md5[1]).hex()}
            files.write_json(note, known)
        elif (headers.get("Content-Range"), tag) != (span, version):  # of another version
            part.unlink()
            return _receive(url, target, part, note)  # without Range, so at most once
        free = shutil.disk_usage(part.parent).free
        if size and size - done > free:
            text = f"{(size - done) / 2**20:.1f} MiB to come, {free / 2**20:.1f} MiB free"
            raise OSError(errno.ENOSPC, text, str(part.parent))
        with open(part, "ab") as file, DownloadBar(target.name, size, done) as bar:
            noted = done
            try:
                while piece := answer.read(CHUNK):
                    file.write(piece)
                    arrived.update(piece)
                    done += len(piece)
                    bar.add(len(piece))
                    if done - noted >= NOTED:
                        _note(file, note, known, arrived, done)
                        noted = done
            finally:  # cut off or stopped: what has arrived is good
                _note(file, note, known, arrived, done)
    return size in (None, done)


def _note(file: BinaryIO, note: Path, known: dict[str, Any], arrived: Any, done: int) -> None:
    """Note what has arrived of a download, once it is on the disk."""
    file.flush()
    os.fsync(file.fileno())
    files.write_json(note, known | {"arrived": done, "sha256": arrived.hexdigest()})


def _kept(url: str, part: Path, note: Path) -> tuple[dict[str, Any], Any]:
    """Return what is known of an interrupted download, and the digest of what was kept of it.

    The part is cut to what was noted. If that is damaged, or of another address, it is deleted.
    """
    try:
        known = forms.read(note, NOTE) or {}
        arrived, size = known["arrived"], known["size"]
        version = known["version"]
        sound = version.isascii() and version.isprintable()  # it becomes a header of the request
        good = known["url"] == url and version and sound and size and 0 < arrived <= size
        with open(part, "rb+") as file:
            file.truncate(max(0, min(arrived, _size(part))))
            found = hashlib.sha256()
            while piece := file.read(CHUNK):
                found.update(piece)
        if good and _size(part) == arrived and found.hexdigest() == known["sha256"]:
            return known, found
        if good:
            print(f"{part.name}: damaged, or not of this file; from the start", file=sys.stderr)
    except (FileNotFoundError, Damaged, KeyError, TypeError, AttributeError):
        pass  # nothing was kept, or of an earlier version
    part.unlink(missing_ok=True)
    return {}, hashlib.sha256()


def _damage(path: Path, name: str, md5: str | None, digest: str | None, sized: bool = True) -> str:
    """Say what is wrong with a complete download; "" if nothing is."""
    with open(path, "rb") as file:
        if file.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html")):
            return WEB_PAGE
    if md5 and (found := _digest(path, "md5")) != md5:
        return f"its MD5 is {found}, and the server announced {md5}: it was damaged on the way."
    algorithm, _, prefix = (digest or "").partition(":")
    if digest and not (found := _digest(path, algorithm)).startswith(prefix):
        return f"its {algorithm} is {found}, and the published one begins with {prefix}."
    return "" if digest or md5 else whole.fault(path, name, sized)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: str | os.PathLike, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
