"""Files to predict, and to evaluate on, from folders, lists and standard input."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vpjax.core.errors import UserError
from vpjax.data.arrays import open_photos
from vpjax.data.forgiving import Forgiving, readable_batches
from vpjax.data.labelled import open_labelled, without
from vpjax.data.loader import Loader
from vpjax.data.photo_paths import Photo, find_photos
from vpjax.data.transforms import preset


def photo(path, colour=(200, 30, 30), size=(12, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    for name in ("cat/1.png", "cat/deep/2.png", "dog/3.jpg", "4.png"):
        photo(tmp_path / "photos" / name)
    return tmp_path / "photos"


def relative(found, folder):
    return [os.path.relpath(p.path, folder) for p in found.found]


def test_folders_give_their_images_a_class(photos):
    found = find_photos([photos])
    assert relative(found, photos) == ["4.png", "cat/1.png", "cat/deep/2.png", "dog/3.jpg"]
    assert [p.label for p in found.found] == ["", "cat", "cat", "dog"] and not found.lost
    photo(photos / "more" / "test" / "cow" / "5.png")
    assert find_photos([photos / "more"]).found[0].label == "cow"


def test_a_list_is_relative_to_its_folder_or_to_the_working_folder(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = "cat/1.png\r\n\n  dog/3.jpg \nphotos/4.png\ncat\\deep\\2.png\nnowhere.png\n"
    (photos / "list.txt").write_text(lines)
    found = find_photos([photos / "list.txt", "photos/4.png"])
    names = [Path(p.path).name for p in found.found]
    assert names == ["1.png", "3.jpg", "4.png", "2.png", "4.png"]
    assert found.lost == {"nowhere.png": "there is no such file"}


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("file;class\ncat/1.png;cat\ndog/3.jpg;dog\n", ["cat", "dog"]),
        ("id,image_path\n7,cat/1.png\n8,dog/3.jpg\n", ["", ""]),
        ("cat/1.png\ndog/3.jpg\n", ["", ""]),
        ("cat/1.png,cat\ndog/3.jpg,dog\n", ["cat", "dog"]),
    ],
)
def test_tables(photos, text, labels):
    (photos / "list.csv").write_text(text, encoding="utf-16")
    found = find_photos([photos / "list.csv"])
    assert relative(found, photos) == ["cat/1.png", "dog/3.jpg"]
    assert [p.label for p in found.found] == labels
    (photos / "list.csv").write_text("label,when\ncat,now\n")
    with pytest.raises(UserError, match="no column 'path'; its columns: label, when"):
        find_photos([photos / "list.csv"])


def test_standard_input_of_any_bytes(photos):
    odd = os.fsdecode(os.fsencode(photos) + b"/caf\xe9.png")
    photo(photos / "4.png")
    os.replace(photos / "4.png", odd)
    lines = os.fsencode(odd) + b"\n" + os.fsencode(photos / "dog") + b"\r\nnot here.png\n"
    found = find_photos(["-"], io.BytesIO(lines))
    assert [p.path for p in found.found] == [odd, str(photos / "dog" / "3.jpg")]
    assert list(found.lost) == ["not here.png"]


def test_an_empty_folder_is_named(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    found = find_photos([tmp_path / "empty", photos])
    assert len(found.found) == 4 and "hold no images" in found.lost[str(tmp_path / "empty")]


def test_broken_images_are_left_out_of_batches(photos):
    (photos / "cat" / "1.png").write_bytes((photos / "cat" / "1.png").read_bytes()[:45])
    (photos / "dog" / "3.jpg").write_bytes(b"")
    source = Forgiving(open_photos(find_photos([photos]).found))
    loader = Loader(source, 3, preset("inception"), 8, train=False, keep=False)
    assert loader.kept is None
    batches = list(readable_batches(loader))
    found = np.concatenate([b["index"][b["mask"]] for b in batches])
    assert found.tolist() == [0, 2] and sorted(source.unreadable) == [1, 3]
    assert "truncated" in source.unreadable[1] and "0 bytes" in source.unreadable[3]


def test_labels_are_matched_by_name(photos):
    (photos / "4.png").unlink()
    source = open_labelled(photos, ("bird", "cat", "dog"))
    named = dict(zip(source.records.names, source.labels().tolist(), strict=True))
    assert named == {"cat/1.png": 1, "cat/deep/2.png": 1, "dog/3.jpg": 2}
    assert source.classes == ("bird", "cat", "dog")
    left = without(source, {0})
    assert len(left) == 2 and left.records.names == source.records.names[1:]
    with pytest.raises(UserError, match="cat is no class of the run.* Did you mean 'cats'"):
        open_labelled(photos, ("cats", "dog"))
    with pytest.raises(UserError, match="does not exist"):
        open_labelled(photos / "nowhere", ("cat", "dog"))


def test_splits_and_tables_with_labels(photos, tmp_path):
    for split in ("train", "test"):
        photo(tmp_path / "split" / split / "cat" / f"{split}.png")
    assert open_labelled(tmp_path / "split", ("cat", "dog")).records.names == ["test/cat/test.png"]
    source = open_labelled(tmp_path / "split", ("cat", "dog"), "train")
    assert source.records.names == ["train/cat/train.png"]
    with pytest.raises(UserError, match="unknown split"):
        open_labelled(tmp_path / "split", ("cat", "dog"), "val")
    (photos / "list.csv").write_text("path,label\ndog/3.jpg,dog\ncat/1.png,cat\n")
    source = open_labelled(photos / "list.csv", ("dog", "cat"))
    assert source.labels().tolist() == [0, 1]


def test_a_photo_has_no_class_by_itself(photos):
    path = str(photos / "cat" / "1.png")
    assert find_photos([path]).found == [Photo(path)]
