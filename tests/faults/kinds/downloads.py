"""Downloads: what has arrived, the notes on it, and the digests beside whole files."""

import functools
import os
import threading
from pathlib import Path

from tests.faults.table import Case, kind
from tests.helpers.file_server import Server
from vpjax.core.errors import UserError
from vpjax.weights import download


@functools.cache
def server() -> Server:
    """Start the server, once for all kinds; it ends with the process."""
    os.environ.setdefault("no_proxy", "127.0.0.1")
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def _whole(folder: Path, damage: str) -> Case:
    path = download.fetch(server().url, folder)
    read = lambda: download.fetch(server().url, folder).read_bytes()  # noqa: E731
    return Case(path.with_name(path.name + damage), read, same=True, named=(path.name,))


def _part(folder: Path, damage: str) -> Case:
    """A download that the line has cut twice, and that goes on."""
    site = server()
    site.cut_after, site.cuts, before = 60_000, 2, download.PAUSE
    download.PAUSE, site.ranges = 0.0, False  # the second answer begins anew, and gets no further
    try:
        download.fetch(site.url, folder)
    except UserError:
        pass
    finally:
        site.cuts, site.ranges = 0, True
    (part,) = folder.rglob("*.part")
    target = part.with_suffix("")
    download.PAUSE = before

    def read():
        assert download.fetch(site.url, folder).read_bytes() == site.content
        for end in ("", ".sha256"):
            target.with_name(target.name + end).unlink()

    both = {
        end: target.with_name(target.name + end).read_bytes() for end in (".part.json", ".part")
    }

    def fresh():
        for end, data in both.items():
            target.with_name(target.name + end).write_bytes(data)

    return Case(part.with_name(target.name + damage), read, fresh=fresh, named=(target.name,))


kind("weights that were downloaded")(lambda folder: _whole(folder, ""))
kind("digest beside weights")(lambda folder: _whole(folder, ".sha256"))
kind("download, what has arrived")(lambda folder: _part(folder, ".part"))
kind("download, the note on it")(lambda folder: _part(folder, ".part.json"))
