"""Downloads from a small server on this machine, with the faults real servers and lines have."""

import base64
import hashlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from flax import serialization

from tests.helpers.file_server import Server, npz
from vpjax.core import progress
from vpjax.core.errors import UserError
from vpjax.weights import download as module
from vpjax.weights.catalog import CATALOG, CatalogEntry
from vpjax.weights.download import fetch, sha256


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module, "PAUSE", 0.0)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def only(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_download_then_cache(server, tmp_path, capsys):
    path = fetch(server.url, tmp_path)
    assert path.read_bytes() == server.content
    assert path == tmp_path / f"127.0.0.1_{server.server_port}" / "folder" / "weights.npz"
    assert only(tmp_path) == ["weights.npz", "weights.npz.sha256"]
    note = path.with_name("weights.npz.sha256").read_text()
    assert note == f"{sha256(path)}  weights.npz\n"
    assert "weights.npz" in capsys.readouterr().err
    assert fetch(server.url, tmp_path) == path
    assert len(server.asked) == 1


def test_known_name(server, tmp_path, monkeypatch):
    digest = "sha256:" + hashlib.sha256(server.content).hexdigest()[:10]
    known = CatalogEntry(server.url, "tiny.npz", "inception", "Ti/16", "a test", digest)
    monkeypatch.setitem(CATALOG, "tiny", known)
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path))
    assert fetch("tiny") == tmp_path / "weights" / "tiny.npz"


def test_published_digest_is_checked(server, tmp_path, monkeypatch):
    known = CatalogEntry(server.url, "tiny.npz", "inception", "Ti/16", "a test", "sha256:0000")
    monkeypatch.setitem(CATALOG, "tiny", known)
    with pytest.raises(UserError, match="published one begins with 0000"):
        fetch("tiny", tmp_path)
    assert only(tmp_path) == []


def test_cut_connection_is_resumed(server, tmp_path):
    server.cut_after, server.cuts = 50_000, 2
    path = fetch(server.url, tmp_path)
    assert path.read_bytes() == server.content
    assert server.asked == [(None, 200), ("bytes=50000-", 206), ("bytes=100000-", 206)]


def interrupted(server, tmp_path):
    """Leaves a partial download of 50 000 bytes behind, as a killed process would."""
    server.cut_after, server.cuts = 50_000, 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.time, "sleep", lambda seconds: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fetch(server.url, tmp_path)
    server.asked.clear()
    return next(tmp_path.rglob("*.part"))


def test_resume_in_a_new_process(server, tmp_path):
    part = interrupted(server, tmp_path)
    assert part.stat().st_size == 50_000
    code = "import sys; from vpjax.weights.download import fetch; print(fetch(*sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, server.url, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert part.with_name("weights.npz").read_bytes() == server.content
    assert server.asked == [("bytes=50000-", 206)]


def test_a_finished_part_needs_no_network(server, tmp_path):
    part = interrupted(server, tmp_path)
    part.write_bytes(server.content)
    note = part.with_name(part.name + ".json")
    arrived = {"arrived": len(server.content), "sha256": sha256(part)}
    note.write_text(json.dumps(json.loads(note.read_text()) | arrived))
    assert fetch(server.url, tmp_path).read_bytes() == server.content
    assert server.asked == []


@pytest.mark.parametrize("place", [0, 20_000, 49_999])
def test_a_damaged_part_is_started_again(server, tmp_path, place, capsys):
    part = interrupted(server, tmp_path)
    kept = bytearray(part.read_bytes())
    kept[place] ^= 8
    part.write_bytes(kept)
    assert fetch(server.url, tmp_path).read_bytes() == server.content
    assert server.asked == [(None, 200)]
    assert "damaged" in capsys.readouterr().err


def test_bytes_that_were_not_noted_are_fetched_again(server, tmp_path):
    part = interrupted(server, tmp_path)
    with open(part, "ab") as file:
        file.write(b"written, and the machine went down" * 9)
    assert fetch(server.url, tmp_path).read_bytes() == server.content
    assert server.asked == [("bytes=50000-", 206)]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"arrived": "x"}', '{"size": null}'])
def test_a_damaged_note_of_a_part_is_no_note(server, tmp_path, text):
    part = interrupted(server, tmp_path)
    part.with_name(part.name + ".json").write_text(text)
    assert fetch(server.url, tmp_path).read_bytes() == server.content
    assert server.asked == [(None, 200)]


def files_of_weights():
    """A file of every kind that is downloaded, by its ending."""
    arrays = {"a": np.arange(20_000, dtype=np.float32), "b": np.ones((3, 4), np.float32)}
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("model/data.pkl", b"no pickle is read to see that a file is whole" * 99)
        archive.writestr("model/data/0", arrays["a"].tobytes())
    return {
        "npz": npz(),
        "safetensors": safetensors.numpy.save(arrays),
        "pth": zipped.getvalue(),
        "msgpack": serialization.msgpack_serialize(arrays),
        "bin": pickle.dumps({"a": 1}) * 500,
    }


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("kind", files_of_weights())
def test_a_file_of_weights_is_kept_whole_or_not_at_all(server, tmp_path, kind, length):
    whole = files_of_weights()[kind]
    server.length, url = length, server.url.replace("npz", kind)
    refused = [whole[: len(whole) * 2 // 3], whole[:100], whole[:-1], b""]
    for server.content in refused if not (length and kind == "bin") else [b""]:
        with pytest.raises(UserError, match="cannot fetch weights"):
            fetch(url, tmp_path)
        assert not only(tmp_path)
    server.content = whole
    if kind == "bin" and not length:  # nothing says where it ends
        with pytest.raises(UserError, match="does not say how long it is"):
            fetch(url, tmp_path)
    else:
        assert fetch(url, tmp_path).read_bytes() == whole


def test_restart_when_range_is_ignored(server, tmp_path):
    interrupted(server, tmp_path)
    server.ranges = False
    assert fetch(server.url, tmp_path).read_bytes() == server.content
    assert server.asked == [("bytes=50000-", 200)]


def test_restart_when_the_file_changed(server, tmp_path):
    interrupted(server, tmp_path)
    server.content, server.etag = npz(seed=1), '"v2"'
    assert fetch(server.url, tmp_path).read_bytes() == server.content


def test_restart_when_a_careless_server_joins_versions(server, tmp_path):
    # The tag stays and the size changes: Content-Range tells.
    interrupted(server, tmp_path)
    server.content = npz(seed=1, size=30_000)
    assert fetch(server.url, tmp_path).read_bytes() == server.content
    assert server.asked == [("bytes=50000-", 206), (None, 200)]


def test_restart_when_the_file_became_shorter(server, tmp_path):
    interrupted(server, tmp_path)
    server.content = npz(seed=1, size=1_000)
    assert fetch(server.url, tmp_path).read_bytes() == server.content
    assert server.asked == [("bytes=50000-", 416), (None, 200)]


def test_no_resume_without_a_version(server, tmp_path):
    server.etag = None
    interrupted(server, tmp_path)
    assert fetch(server.url, tmp_path).read_bytes() == server.content
    assert server.asked == [(None, 200)]


def test_gives_up_when_nothing_more_comes(server, tmp_path):
    server.ranges, server.cut_after, server.cuts = False, 50_000, 99
    with pytest.raises(UserError, match="the connection ended before the file did.*run again"):
        fetch(server.url, tmp_path)
    assert len(server.asked) == 2
    assert only(tmp_path) == ["weights.npz.part", "weights.npz.part.json"]


def test_truncated_without_length_is_refused(server, tmp_path):
    server.content, server.length = server.content[:90_000], False
    with pytest.raises(UserError, match="not a complete npz file"):
        fetch(server.url, tmp_path)
    assert only(tmp_path) == []


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_web_page_is_refused(server, tmp_path, kind):
    server.content, server.kind = b"\n<!DOCTYPE html><title>Log in</title>", kind
    with pytest.raises(UserError, match="web page instead of the file"):
        fetch(server.url, tmp_path)
    assert only(tmp_path) == []


def test_md5_of_the_storage_server(server, tmp_path):
    server.md5 = base64.b64encode(hashlib.md5(b"something else").digest()).decode()
    with pytest.raises(UserError, match="MD5.*damaged on the way"):
        fetch(server.url, tmp_path)
    assert only(tmp_path) == []
    server.md5 = base64.b64encode(hashlib.md5(server.content).digest()).decode()
    fetch(server.url, tmp_path)


def test_not_found_says_what_to_do(server, tmp_path):
    server.status = 404
    with pytest.raises(UserError) as caught:
        fetch(server.url, tmp_path)
    message = str(caught.value)
    assert "404" in message and f"    {server.url}\n" in message
    assert str(tmp_path / f"127.0.0.1_{server.server_port}" / "folder" / "weights.npz") in message


def test_no_network(server, tmp_path):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="no connection to the server"):
        fetch(url, tmp_path)


def test_disk_full(server, tmp_path, monkeypatch):
    usage = module.shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"the disk is full.*0\.2 MiB to come") as caught:
        fetch(server.url, tmp_path)
    assert server.url in str(caught.value)


def test_unwritable_cache(server, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cache cannot be used.*VPJAX_CACHE"):
        fetch(server.url, tmp_path / "cache")


def test_changed_cache_is_noticed(server, tmp_path):
    path = fetch(server.url, tmp_path)
    damaged = bytearray(path.read_bytes())
    damaged[1_000] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"changed: its sha256.*Delete both"):
        fetch(server.url, tmp_path)


def test_file_put_there_by_hand(tmp_path):
    known = CATALOG["vit_b16_in21k"]
    (tmp_path / known.file).write_bytes(npz())
    path = fetch("vit_b16_in21k", tmp_path)
    assert only(tmp_path) == [known.file, f"{known.file}.sha256"]
    path.with_name(f"{known.file}.sha256").unlink()
    path.write_bytes(npz()[:-100])
    with pytest.raises(UserError, match="not usable: it is not a complete npz"):
        fetch("vit_b16_in21k", tmp_path)


def test_two_at_once_download_once(server, tmp_path):
    paths = []
    threads = [
        threading.Thread(target=lambda: paths.append(fetch(server.url, tmp_path))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 4 and len(server.asked) == 1


def test_bar_on_a_terminal(server, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch(server.url, tmp_path)
    assert "weights.npz: 100%" in terminal.getvalue()


def test_plain_lines_have_rate_and_eta(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(module, "CHUNK", 50_000)
    fetch(server.url, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 3
    assert all(re.search(r"\d% .* MiB/s  ETA \d+:\d\d:\d\d$", line) for line in lines)


def test_local_path(tmp_path):
    path = tmp_path / "mine.npz"
    path.write_bytes(npz())
    assert fetch(path) == fetch(str(path)) == path
    assert only(tmp_path) == ["mine.npz"]


def test_missing_path_lists_what_is_near(tmp_path):
    (tmp_path / "ViT-B_16.npz").touch()
    with pytest.raises(UserError) as caught:
        fetch(tmp_path / "ViT-B-16.npz")
    assert "there is no file" in str(caught.value)
    assert "ViT-B_16.npz" in str(caught.value) and "vit_b16_in21k" in str(caught.value)
    with pytest.raises(UserError, match="does not exist either"):
        fetch(tmp_path / "nowhere" / "x.npz")
    with pytest.raises(UserError, match=r"is a folder.*ViT-B_16\.npz"):
        fetch(tmp_path)
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(UserError, match=r"pipe\.npz is no plain file"):
        fetch(tmp_path / "pipe.npz")


def test_unknown_name():
    with pytest.raises(UserError, match="Did you mean 'vit_b16_in21k'"):
        fetch("vit_b_16_in21k")


def test_addresses_that_cannot_be_fetched(tmp_path):
    with pytest.raises(UserError, match=r"https://storage\.googleapis\.com/vit_models/x\.npz"):
        fetch("gs://vit_models/x.npz", tmp_path)
    with pytest.raises(UserError, match="names no file"):
        fetch("https://example.org/", tmp_path)


def test_addresses_do_not_share_a_file():
    one = module._place("https://a.org/sam/w.npz?version=1")
    two = module._place("https://a.org/sam/w.npz?version=2")
    three = module._place("https://a.org/../../sam/w.npz")
    assert len({one, two, three}) == 3
    assert ".." not in three.parts and {p.name for p in (one, two, three)} == {"w.npz"}
