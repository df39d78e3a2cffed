"""Files that are none, and files that do not come."""

import os
import socket
import time

import pytest

from tests.helpers import results
from vpjax.core import forms, reading, table
from vpjax.core.errors import UserError
from vpjax.data.files import PHOTO, Files
from vpjax.data.sizes import common_shape
from vpjax.data.text import read_text
from vpjax.report.write import report
from vpjax.runs.history import read_history
from vpjax.weights import formats


def odd_file(path, kind):
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["a named pipe", "a folder", "a device", "a socket"])
def test_what_is_no_plain_file_is_not_waited_for(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    odd_file(tmp_path / "a.png", kind)
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"a\.png cannot be read"):
        Files(tmp_path, [("a.png", 0)]).__getitems__([0])
    assert common_shape(Files(tmp_path, [("a.png", 0)])) == PHOTO
    with pytest.raises(UserError, match=r"a\.png cannot be read"):
        read_text(tmp_path / "a.png")
    assert time.monotonic() - begin < 2


def test_the_message_says_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a named pipe, and a plain file was expected"):
        reading.read_bytes(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"abc")
    assert reading.read_bytes(tmp_path / "file") == b"abc"


@pytest.mark.parametrize("name", ["config.json", "result.json", "metrics.jsonl", "table.csv"])
def test_files_of_a_run_are_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    readers = {".json": lambda path: forms.read(path, dict), ".csv": table.read_rows}
    with pytest.raises(UserError, match=rf"{name} cannot be read.*named pipe"):
        readers.get((tmp_path / name).suffix, read_history)(tmp_path / name)


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors", "w.pth", "w.msgpack"])
def test_weights_are_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    for read in (formats.read, formats.shapes):
        with pytest.raises(UserError, match="it is no plain file"):
            read(tmp_path / name)


def test_a_report_waits_for_no_pipe(tmp_path):
    """Nobody writes to it: a reader that opens it ends never, and neither would the test."""
    run = results.write(tmp_path / "a" / "seed0", results.config_of("fgvc", "cub"), 80.0)
    other = results.write(tmp_path / "b" / "seed0", results.config_of("fgvc", "cub"), 70.0)
    for name in ("log.txt", "metrics.jsonl", "per_class.csv", "examples.json", "x.png"):
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)
    (other / "result.json").unlink()
    os.mkfifo(other / "result.json")
    report(run)
    report(tmp_path)
    assert "named pipe" in (tmp_path / "report.md").read_text()


def test_what_is_waited_for_is_named_once(caplog, monkeypatch):
    monkeypatch.setattr(reading, "SLOW", 0.05)
    monkeypatch.setattr(reading, "_watching", [])
    caplog.set_level("WARNING", logger="vpjax")
    with reading.reading("examples 0 to 9"), reading.reading("disk/7.png"):
        time.sleep(0.3)
        assert reading.waited_for(0.1) == ["disk/7.png"]
    assert [m for m in caplog.messages if "disk/7.png takes over" in m] == caplog.messages
    assert len(caplog.messages) == 1
    assert not reading.waited_for(0)


@pytest.mark.parametrize("number", ["EMFILE", "ENFILE", "ENOMEM"])
def test_a_good_file_is_not_blamed(tmp_path, monkeypatch, number):
    import errno

    def fails(path):
        raise OSError(getattr(errno, number), "no more", str(path))

    monkeypatch.setattr("vpjax.data.files.read_bytes", fails)
    with pytest.raises(OSError):  # explained where the command ends, see `core.troubles`
        Files(tmp_path, [("a.png", 0)]).__getitems__([0])
