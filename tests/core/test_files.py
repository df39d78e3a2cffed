"""Files that are written whole or not at all, and what killed processes leave."""

import errno
import os
import time

import pytest

from vpjax.core import files, leftovers
from vpjax.core.errors import InUse
from vpjax.core.files import atomic, read_sealed, write_json, write_sealed, write_text


def full(*args, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("what", ["write", "sync", "rename"])
def test_a_file_stays_as_it_was_where_writing_fails(tmp_path, monkeypatch, what):
    path = tmp_path / "config.json"
    write_json(path, {"a": 1})
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        if what == "write":
            patch.setattr("pathlib.Path.write_text", full)
        else:
            patch.setattr(os, {"sync": "fsync", "rename": "replace"}[what], full)
        with pytest.raises(OSError, match="No space left"):
            write_json(path, {"a": 2})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    done, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: done.append("sync") or sync(fd))
    monkeypatch.setattr(os, "replace", lambda *a: done.append("rename") or replace(*a))
    write_text(tmp_path / "a.txt", "text")
    assert done == ["sync", "rename", "sync"]  # the last is of the folder


def test_an_error_in_the_block_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "a") as new:
        new.write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 9])
def test_sealed_bytes_are_read_only_if_they_are_whole(tmp_path, content):
    path = tmp_path / "kept"
    write_sealed(path, content)
    assert read_sealed(path) == content
    good = path.read_bytes()
    for place in {0, 31, len(good) // 2, len(good) - 1}:
        path.write_bytes(bytes(b ^ (8 * (i == place)) for i, b in enumerate(good)))
        assert read_sealed(path) is None
    for part in (b"", good[:20], good[:-1], good + b"x"):
        path.write_bytes(part)
        assert read_sealed(path) is None
    path.unlink()
    assert read_sealed(path) is None


def test_old_leftovers_go_and_others_stay(tmp_path, caplog):
    old, young = [".a.json.7.new", ".incomplete-x"], [".b.json.8.new"]
    for name in [*old, *young, "c.json", ".hidden"]:
        (tmp_path / name).mkdir() if "incomplete" in name else (tmp_path / name).write_text("x")
        if name not in young:
            os.utime(tmp_path / name, (1, 1))
    (tmp_path / ".incomplete-x" / "half").write_text("x")
    os.utime(tmp_path / ".incomplete-x", (1, 1))
    with caplog.at_level("INFO", logger="vpjax"):
        assert leftovers.clean([tmp_path, tmp_path / "nowhere"]) == 2
    assert len(caplog.messages) == 1 and "2 half-written leftovers" in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.json.8.new", ".hidden", "c.json"]
    assert leftovers.clean([tmp_path], age=0) == 1


def test_a_link_among_leftovers_is_not_followed(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "photo.png").write_bytes(b"x")
    (tmp_path / ".incomplete-y").symlink_to(tmp_path / "data")
    assert leftovers.clean([tmp_path], age=-time.time()) == 1
    assert (tmp_path / "data" / "photo.png").exists()


def test_the_owner_of_a_lock_is_named(tmp_path):
    with files.lock_folder(tmp_path / "run"):
        assert (tmp_path / "run" / ".owner").read_text() == str(os.getpid())


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"12\x1b[2J", None])
def test_a_damaged_owner_is_no_trouble(tmp_path, content):
    folder = tmp_path / "run"
    with files.lock_folder(folder):
        (folder / ".owner").unlink()
        if content is None:
            os.mkfifo(folder / ".owner")
        else:
            (folder / ".owner").write_bytes(content)
        with pytest.raises(InUse, match=r"process unknown"), files.lock_folder(folder):
            pass
    with files.lock_folder(folder):
        assert (folder / ".owner").read_text() == str(os.getpid())
