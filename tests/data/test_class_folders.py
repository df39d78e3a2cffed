"""Class folders as archives, spreadsheets and other systems leave them."""

import os
import unicodedata

import pytest
from PIL import Image

from tests.data.test_folder import classes, picture, seen
from vpjax.core.errors import UserError
from vpjax.data import Loader, open_source, preset

TWO = {"ant": 2, "bee": 1}


@pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
@pytest.mark.parametrize("val", ["val", "Valid", "validation", "Dev"])
def test_split_words(tmp_path, train, val):
    classes(tmp_path / train, TWO)
    classes(tmp_path / val, {"bee": 1})
    classes(tmp_path / "Testing", {"ant": 3})
    name = f"folder:{tmp_path}"
    assert seen(open_source(name, "train")) == TWO
    assert all(seen(open_source(name, s)) == {"bee": 1} for s in (val, "val", "dev", "valid"))
    assert seen(open_source(name, "test")) == {"ant": 3}


def test_two_folders_of_one_split_are_not_mixed_up(tmp_path):
    for split in ("train", "val", "valid"):
        classes(tmp_path / split, TWO)
    assert len(open_source(f"folder:{tmp_path}", "valid")) == 3
    with pytest.raises(UserError, match="'dev' of .* may be any of val, valid"):
        open_source(f"folder:{tmp_path}", "dev")


def test_other_folders_beside_the_splits(tmp_path, caplog):
    classes(tmp_path / "train", TWO)
    picture(tmp_path / "__MACOSX" / "train" / "ant" / "._0.png")
    picture(tmp_path / ".cache" / "x.png")
    assert open_source(f"folder:{tmp_path}", "train").classes == ("ant", "bee")
    assert not caplog.text
    picture(tmp_path / "unlabelled" / "x.png")
    picture(tmp_path / "test" / "x.png")  # as in competitions: no folders, no labels
    assert seen(open_source(f"folder:{tmp_path}", "train")) == TWO
    assert "not read: unlabelled" in caplog.text
    with pytest.raises(UserError, match="test has no subfolders; each class needs one"):
        open_source(f"folder:{tmp_path}", "test")


@pytest.mark.parametrize("inner", ["birds", "birds/train", "train/train"])
def test_one_level_of_wrapping(tmp_path, inner):
    classes(tmp_path / inner, TWO)
    (tmp_path / "__MACOSX").mkdir()
    assert seen(open_source(f"folder:{tmp_path}", "train")) == TWO


def test_one_class(tmp_path):
    classes(tmp_path / "a" / "b" / "train", TWO)
    with pytest.raises(UserError, match="only one class, 'a'.*for each class"):
        open_source(f"folder:{tmp_path}", "train")
    classes(tmp_path / "c" / "train", {"only": 2})
    with pytest.raises(UserError, match="only one class, 'only'"):
        open_source(f"folder:{tmp_path}/c", "train")
    (tmp_path / "one.csv").write_text("c/train/only/0.png,x\nc/train/only/1.png,x\n")
    with pytest.raises(UserError, match="only one class, 'x'"):
        open_source(f"csv:{tmp_path}/one.csv", "train")


@pytest.mark.parametrize("names", [("9", "10", "100"), ("0", "02", "11"), ("1", "b", "c")])
def test_numbers_are_in_their_order(tmp_path, names):
    classes(tmp_path / "train", dict.fromkeys(reversed(names), 1))
    assert open_source(f"folder:{tmp_path}", "train").classes == names


def test_what_pillow_reads_is_read_and_the_rest_counted(tmp_path, caplog):
    for kind, ending in (("JPEG", "jfif"), ("GIF", "gif"), ("TGA", "tga"), ("PCX", "PCX")):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "a" / f"x.{ending}", kind)
    picture(tmp_path / "b" / "x.png")
    (tmp_path / "b" / "raw.cr2").write_bytes(b"x")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "photo").write_bytes(b"x")
    source = open_source(f"folder:{tmp_path}", "train")
    assert seen(source) == {"a": 4, "b": 1}
    assert len(source.__getitems__(range(5))) == 5
    assert "no image in the folders of c" in caplog.text
    assert "no .cr2; the first is raw.cr2" in caplog.text and "without an ending" in caplog.text


def test_links(tmp_path):
    root = tmp_path / "data"
    classes(root / "train", TWO)
    classes(tmp_path / "far", {"cow": 2})
    os.symlink(tmp_path / "far" / "cow", root / "train" / "cow")
    os.symlink(root, root / "train" / "up")
    os.symlink("..", root / "train" / "ant" / "again")
    assert seen(open_source(f"folder:{root}", "train")) == TWO | {"cow": 2}


@pytest.mark.parametrize("word", ["Käfer", "Ångström", "カバ"])
def test_unicode_forms_of_a_class(tmp_path, word):
    one, other = (unicodedata.normalize(form, word) for form in ("NFC", "NFD"))
    assert one != other
    classes(tmp_path / "train", {other: 2, "A": 1})
    classes(tmp_path / "val", {one: 1})
    assert open_source(f"folder:{tmp_path}", "train").classes == ("A", one)
    assert open_source(f"folder:{tmp_path}", "val").labels().tolist() == [1]
    (tmp_path / "l.csv").write_text(f"train/A/0.png,A\nval/{other}/0.png,{other}\n", "utf-8")
    source = open_source(f"csv:{tmp_path}/l.csv", "train")
    assert source.classes == ("A", one) and len(source.__getitems__([0, 1])) == 2


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("RGB", 3), ("P", 3)])
def test_images_of_one_size_suit_presets_that_do_not_resize(tmp_path, mode, channels):
    for i, name in enumerate("ab"):
        picture(tmp_path / name / "0.png", i, (28, 28), mode)
    source = open_source(f"folder:{tmp_path}", "train")
    assert source.image_shape == (28, 28, channels)
    loader = Loader(source, 2, preset("msvp_mnist"), 28, train=False)
    assert next(loader.batches())["image"].shape == (2, 28, 28, channels)
    picture(tmp_path / "a" / "1.png", 0, (28, 29), mode)
    assert open_source(f"folder:{tmp_path}", "train").image_shape == (None, None, 3)


def test_turned_photos_have_the_size_they_are_read_in(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 9)).save(tmp_path / name / "0.jpg", exif=exif)
    source = open_source(f"folder:{tmp_path}", "train")
    assert source.image_shape == source[0]["image"].shape == (4, 9, 3)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("seg_train/seg_train/a", "seg_test/seg_test/a"), "splits, not classes"),
        (("train2017/a", "val2017/b"), "splits, not classes"),
        (("Train_images/a", "Test_images/b"), "splits, not classes"),
        (("a/train", "b/train", "a/test", "b/test"), "splits in classes"),
        (("a/val", "b/training"), "splits in classes"),
        (("images/train/a", "images/val/a", "labels/x"), "give folder:.*images"),
    ],
)
def test_splits_that_would_be_taken_for_classes(tmp_path, folders, message):
    for folder in folders:
        picture(tmp_path / "x" / folder / "0.png")
    with pytest.raises(UserError, match=message):
        open_source(f"folder:{tmp_path / 'x'}", "train")


def test_a_station_of_trains_is_a_class(tmp_path):
    classes(tmp_path, {"train_station": 1, "harbour": 2})
    assert seen(open_source(f"folder:{tmp_path}", "train")) == {"train_station": 1, "harbour": 2}


def test_one_class_beside_empty_ones(tmp_path):
    classes(tmp_path / "train", {"images": 3})
    (tmp_path / "train" / "labels").mkdir()
    with pytest.raises(UserError, match="only one class, 'images'"):
        open_source(f"folder:{tmp_path}", "train")
