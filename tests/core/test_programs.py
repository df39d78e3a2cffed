"""Compiled programs on disk: damaged and half-written ones are compiled again."""

import os
import zlib

import pytest

from vpjax.core import programs

CONTENT = zlib.compress(bytes(range(256)) * 40)


@pytest.fixture
def folder(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}-cache").write_bytes(CONTENT + name.encode() * 0)
    programs.record(tmp_path)
    return tmp_path


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_sound_programs_stay(folder):
    before = names(folder)
    assert before == [f"{n}-{end}" for n in "abc" for end in ("cache", "sha256")]
    assert programs.check(folder) == 0
    assert names(folder) == before


@pytest.mark.parametrize("place", [0, 1, 2, 100, -1])
@pytest.mark.parametrize("start", [b"", b"\x28\xb5\x2f\xfd", b"no format that is known"])
def test_a_flipped_bit_is_noticed_in_any_format(tmp_path, start, place):
    file = tmp_path / "a-cache"
    file.write_bytes(start + CONTENT)
    programs.record(tmp_path)
    (tmp_path / "a-sha256").write_text(programs.hashlib.sha256(file.read_bytes()).hexdigest())
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)
    assert programs.check(tmp_path) == 1
    assert not names(tmp_path)


@pytest.mark.parametrize("content", [b"", CONTENT[:-3], CONTENT[:9]])
def test_one_that_a_killed_process_has_cut_short_heals(folder, content, caplog):
    (folder / "d-cache").write_bytes(content)
    with caplog.at_level("INFO", logger="vpjax"):
        assert programs.check(folder) == 1
    assert "1 damaged or half-written programs" in caplog.text
    assert "d-cache" not in names(folder) and len(names(folder)) == 6


def test_a_whole_one_without_a_digest_is_taken_while_it_is_new(folder):
    for name in "de":
        (folder / f"{name}-cache").write_bytes(CONTENT)
    os.utime(folder / "e-cache", (1, 1))
    assert programs.check(folder) == 1
    assert "d-sha256" in names(folder) and "e-cache" not in names(folder)


def test_a_digest_without_a_program_goes(folder):
    (folder / "a-cache").unlink()
    assert programs.check(folder) == 0
    assert "a-sha256" not in names(folder)


def test_a_damaged_digest_is_not_believed(folder):
    (folder / "a-sha256").write_bytes(b"\xff\xfe")
    assert programs.check(folder) == 1
    assert "a-cache" not in names(folder)


def test_the_newest_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "MOST", 3 * len(CONTENT))
    for age, name in enumerate("abcde"):
        file = tmp_path / f"{name}-cache"
        file.write_bytes(CONTENT)
        os.utime(file, (1e9 - age, 1e9 - age))
        (tmp_path / f"{name}-sha256").write_text(programs.hashlib.sha256(CONTENT).hexdigest())
    os.utime(tmp_path / "e-cache", (2e9, 1e9 - 5))  # used since
    assert programs.check(tmp_path) == 0
    assert names(tmp_path) == [f"{n}-{end}" for n in "abe" for end in ("cache", "sha256")]


def test_a_folder_that_is_not_there(tmp_path):
    assert programs.check(tmp_path / "nowhere") == 0
