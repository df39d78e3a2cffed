"""Broken files of every split are found and named before anything is computed."""

import io

import numpy as np
import pytest
from PIL import Image

from vpjax.core.errors import UserError
from vpjax.data import from_arrays, open_source
from vpjax.data.images import Decoding
from vpjax.data.verify import has_files, message, verify
from vpjax.runs.sound_files import FILE, check_files

RNG = np.random.default_rng(0)


def encoded(kind, size=(64, 48)):
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (*size, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path):
    """Folders of three splits, two classes, four JPEGs and PNGs a class."""
    for split in ("train", "val", "test"):
        for name in "ab":
            (tmp_path / "x" / split / name).mkdir(parents=True)
            for i in range(4):
                data = encoded("PNG" if i % 2 else "JPEG")
                (tmp_path / "x" / split / name / f"{i}.{'png' if i % 2 else 'jpg'}").write_bytes(
                    data
                )
    return tmp_path / "x"


def splits(root, *names):
    return {n: open_source(f"folder:{root}", n) for n in names or ("train", "val", "test")}


def test_sound_files(root, tmp_path):
    sources = splits(root)
    assert not any(verify(s, 2) for s in sources.values())
    check_files(sources, tmp_path)
    assert (tmp_path / FILE).exists()


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) * 2 // 3],
        lambda data: b"<html>404</html>",
        lambda data: data[:40],
    ],
)
@pytest.mark.parametrize("file", ["1.png", "2.jpg"])
def test_a_broken_file_of_any_split(root, tmp_path, split, damage, file):
    path = root / split / "b" / file
    good = path.read_bytes()
    path.write_bytes(damage(good))
    with pytest.raises(UserError, match=rf"folder:x\[{split}\]: 1 of 8.*") as error:
        check_files(splits(root), tmp_path)
    assert f"{split}/b/{file}" in str(error.value)
    path.write_bytes(good)
    check_files(splits(root), tmp_path)


def test_all_of_many_are_counted_and_some_are_named(root):
    for path in (root / "test").rglob("*.*"):
        path.write_bytes(b"no image")
    source = splits(root, "test")["test"]
    faults = verify(source, 2)
    assert sorted(faults) == list(range(8))
    assert "8 of 8 images cannot be read" in message(source, faults)


def test_parts_are_shared_among_processes(root):
    (root / "test" / "a" / "0.jpg").write_bytes(b"")
    source = splits(root, "test")["test"]
    bad = source.records.names.index("test/a/0.jpg")
    found = [verify(source, 1, part=slice(i, None, 3)) for i in range(3)]
    assert [sorted(f) for f in found] == [[bad] if bad % 3 == i else [] for i in range(3)]


def test_some_classes_and_limits_are_heeded(root, tmp_path):
    (root / "test" / "a" / "0.jpg").write_bytes(b"")
    some = open_source(f"folder:{root}", "test", classes="b")
    assert has_files(some) and not verify(some, 1)
    small = open_source(f"folder:{root}", "val", decoding=Decoding(max_pixels=100))
    assert len(verify(small, 1)) == 8
    with pytest.raises(UserError, match=r"data.max_pixels=N"):
        check_files({"val": small}, tmp_path)


def test_what_was_found_sound_is_not_read_again(root, tmp_path, monkeypatch):
    sources = splits(root)
    check_files(sources, tmp_path)
    monkeypatch.setattr("vpjax.runs.sound_files.SOUND", set())
    monkeypatch.setattr("vpjax.runs.sound_files.verify", lambda *a, **k: 1 / 0)
    check_files(sources, tmp_path)
    monkeypatch.setattr("vpjax.runs.sound_files.SOUND", set())
    with pytest.raises(ZeroDivisionError):
        check_files(sources, tmp_path / "other")


def test_arrays_are_no_files():
    assert not has_files(from_arrays(np.zeros((3, 8, 8, 3), np.uint8), [0, 1, 2]))
