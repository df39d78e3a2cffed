"""Checking data finds each planted fault, names it, and sets the exit status.

Planted: a truncated file, an empty file, a page of HTML, a file of another shape, a damaged record,
a folder of a class without images, a class that train lacks, a class that val lacks, a picture
twice, a picture under two labels, a test picture among those of train (in another format), CMYK,
transparency, palette and EXIF-turned files, a missing split, an empty split, splits that overlap,
too few images, too many classes, labels out of range, a missing file of a list.
"""

import json

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import Memory
from tests.data.fake import as_tfrecord, fake_tfds, frame
from tests.helpers.runs import HOME, main
from vpjax.data import images, tfds
from vpjax.data.check import check_data
from vpjax.data.examine import examine
from vpjax.data.records import Record
from vpjax.data.source import Source


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def photos(tmp_path):
    """Three splits of two classes, without a fault."""
    rng = np.random.default_rng(0)
    for split, n in {"train": 6, "val": 3, "test": 4}.items():
        for name in ("ant", "bee"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (9, 12, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"


def findings(tmp_path, name, train="train", val="val", test="test", data_dir=None, classes=""):
    """Checks data; returns whether it has no fault, the findings by problem, and the JSON."""
    splits = {"train": train, "val": val, "test": test}
    content = check_data(name, splits, tmp_path / "checked", data_dir=data_dir, classes=classes)
    record = json.loads((tmp_path / "checked" / "data_check.json").read_text())
    assert record["faults"] == sum(f["level"] == "fault" for f in record["findings"])
    assert content == (record["faults"] == 0)
    return content, {(f["split"], f["problem"]): f for f in record["findings"]}, record


def examples(finding):
    return "\n".join(finding["examples"])


def test_a_healthy_data_set(photos, tmp_path, caplog):
    with caplog.at_level("INFO", logger="vpjax"):
        content, found, record = findings(tmp_path, f"folder:{photos}")
    assert content and not found
    train = record["splits"][0]
    assert train["images"] == 12 and train["published"] is None
    assert train["images_per_class"]["counts"] == {"ant": 6, "bee": 6}
    assert train["pixels"] == "9 x 12" and train["kinds"] == {"RGB": 12}
    assert "| train |     12 |         - |" in caplog.text and "no fault found" in caplog.text
    digests = [s["digest"] for s in record["splits"]]
    assert len(set(digests)) == 3
    assert [s["digest"] for s in findings(tmp_path, f"folder:{photos}")[2]["splits"]] == digests


def test_broken_files(photos, tmp_path):
    folder = photos / "train" / "bee"
    Image.new("RGB", (80, 60), (9, 8, 7)).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:300])
    (folder / "empty.jpg").touch()
    (folder / "page.jpg").write_text("<!DOCTYPE html><html></html>")
    content, found, record = findings(tmp_path, f"folder:{photos}")
    assert not content and list(found) == [("train", "unreadable")]
    broken = found["train", "unreadable"]
    assert broken["level"] == "fault" and broken["count"] == 3
    for file, why in {
        "cut.jpg": "truncated",
        "empty.jpg": "0 bytes",
        "page.jpg": "doctype",
    }.items():
        (line,) = (e for e in broken["examples"] if file in e)
        assert why in line.lower() and "train/bee/" in line
    assert record["splits"][0]["unreadable"] == 3


def test_blank_images_are_no_duplicates_and_all_are_listed(photos, tmp_path, caplog):
    for i in range(12):
        Image.new("RGB", (9, 12), (200, 10, 10)).save(photos / "train" / "ant" / f"red{i}.png")
    Image.new("RGBA", (9, 12), (255, 255, 255, 0)).save(photos / "val" / "bee" / "clear.png")
    Image.new("L", (9, 12), 7).save(photos / "test" / "bee" / "dark.png")
    Image.new("RGB", (9, 12), (200, 10, 10)).save(photos / "test" / "bee" / "red.png")
    with caplog.at_level("INFO", logger="vpjax"):
        fine, found, _ = findings(tmp_path, f"folder:{photos}")
    assert fine and not {"duplicate", "leak"} & {problem for _, problem in found}
    blank = found["train", "blank"]
    assert blank["level"] == "warning" and blank["count"] == len(blank["examples"]) == 12
    assert "1 of them are transparent" in found["val", "blank"]["text"]
    assert found["test", "blank"]["count"] == 2
    assert "and 2 more, all in data_check.json" in caplog.text


def test_a_white_drawing_on_nothing_is_seen_on_another_background(photos, tmp_path):
    image = Image.new("RGBA", (9, 12), (0, 0, 0, 0))
    image.paste((255, 255, 255, 255), (2, 2, 5, 5))
    image.save(photos / "train" / "ant" / "chalk.png")
    assert ("train", "blank") in findings(tmp_path, f"folder:{photos}")[1]
    grey = images.Decoding(background="grey")
    folder = tmp_path / "grey"
    check_data(f"folder:{photos}", {"train": "train"}, folder, decoding=grey)
    found = json.loads((folder / "data_check.json").read_text())["findings"]
    assert "blank" not in {f["problem"] for f in found}


def test_the_first_ten_are_shown_and_all_are_written(photos, tmp_path, caplog):
    for i in range(15):
        (photos / "train" / "ant" / f"x{i}.png").touch()
    with caplog.at_level("INFO", logger="vpjax"):
        _, found, _ = findings(tmp_path, f"folder:{photos}")
    assert found["train", "unreadable"]["count"] == 15
    assert len(found["train", "unreadable"]["examples"]) == 15
    assert "and 5 more" in caplog.text


def test_classes_without_images(photos, tmp_path):
    (photos / "train" / "wasp").mkdir()
    for file in (photos / "val" / "bee").iterdir():
        file.unlink()
    content, found, _ = findings(tmp_path, f"folder:{photos}")
    assert not content
    levels = {key: f["level"] for key, f in found.items()}
    assert levels == {
        ("train", "missing class"): "fault",
        ("val", "missing class"): "warning",
        ("test", "missing class"): "warning",
    }
    assert found["train", "missing class"]["examples"] == ["wasp"]
    assert found["val", "missing class"]["examples"] == ["bee", "wasp"]


def test_a_class_that_train_lacks_and_a_split_that_is_not_there(photos, tmp_path):
    (photos / "test" / "ants").mkdir()
    (photos / "test" / "bee" / "0.png").rename(photos / "test" / "ants" / "0.png")
    content, found, _ = findings(tmp_path, f"folder:{photos}", val="vla")
    assert not content and set(found) == {("val", "open"), ("test", "open")}
    assert "class 'ants', which 'train' lacks" in found["test", "open"]["text"]
    assert "'vla'" in found["val", "open"]["text"]


def test_pictures_that_are_there_twice(photos, tmp_path):
    train = photos / "train"
    (train / "ant" / "again.png").write_bytes((train / "ant" / "2.png").read_bytes())
    Image.open(train / "ant" / "3.png").save(train / "bee" / "other.bmp")
    Image.open(train / "bee" / "4.png").save(photos / "test" / "bee" / "leaked.bmp")
    content, found, _ = findings(tmp_path, f"folder:{photos}")
    assert not content
    levels = {key: (f["level"], f["count"]) for key, f in found.items()}
    assert levels == {
        ("train", "duplicate"): ("warning", 1),
        ("train", "contradiction"): ("fault", 1),
        ("train and test", "leak"): ("fault", 1),
    }
    assert "train/ant/2.png" in examples(found["train", "duplicate"])
    assert "train/ant/again.png" in examples(found["train", "duplicate"])
    contradiction = examples(found["train", "contradiction"])
    assert "train/bee/other.bmp" in contradiction and "labels" in contradiction
    leak = examples(found["train and test", "leak"])
    assert "train/bee/4.png) is" in leak and "test/bee/leaked.bmp" in leak


def test_odd_kinds_of_files_are_reported(photos, tmp_path):
    folder = photos / "train" / "ant"
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (9, 12, 4), np.uint8))
    image.save(folder / "alpha.png")
    image.convert("RGB").convert("CMYK").save(folder / "press.jpg")
    image.convert("RGB").quantize(8).save(folder / "palette.png")
    image.convert("L").save(folder / "grey.png")
    exif = Image.Exif()
    exif[274] = 6
    image.convert("RGB").save(folder / "turned.jpg", exif=exif)
    content, found, record = findings(tmp_path, f"folder:{photos}")
    kinds = record["splits"][0]["kinds"]
    assert kinds == {"RGB": 12, "RGBA": 1, "CMYK": 1, "P": 1, "L": 1, "RGB turned": 1}
    assert content and all(f["level"] == "warning" for f in found.values())
    assert {problem for _, problem in found} == {
        "kind RGBA",
        "kind CMYK",
        "kind P",
        "kind RGB turned",
    }
    assert "press.jpg" in examples(found["train", "kind CMYK"])
    assert record["splits"][0]["pixels"] == "9-12 x 9-12"


def test_counts_that_are_not_the_published_ones(tmp_path):
    fake_tfds(tmp_path, "cifar10", {"train": 40, "test": 20})
    content, found, record = findings(
        tmp_path, "cifar10", "train[:90%]", "train[90%:]", data_dir=tmp_path
    )
    assert not content and set(found) == {(p, "count") for p in ("train", "val", "test")} | {
        ("val", "missing class")
    }
    assert found["train", "count"]["text"] == "36 images, 45000 were published"
    assert [s["published"] for s in record["splits"]] == [45_000, 5_000, 10_000]
    some = findings(tmp_path, "cifar10", "train", "", "test", data_dir=tmp_path, classes="0,1,2")
    assert some[0] and not some[1]  # of some classes no number is published


def test_published_data_are_fine_and_their_splits_must_not_overlap(tmp_path):
    content, found, record = findings(tmp_path, "digits/high", "train[:90%]", "train[90%:]")
    assert content and [s["published"] for s in record["splits"]] == [656, 73, 167]
    content, found, _ = findings(tmp_path, "digits/high", "train", "train[90%:]")
    assert not content and list(found) == [("train and val", "overlap")]
    assert found["train and val", "overlap"]["count"] == 73
    content, found, _ = findings(tmp_path, "digits/high", "train", "train[:0]", "test[:0]")
    assert {key for key in found if key[1] == "empty"} == {("val", "empty"), ("test", "empty")}


def test_vtab_lists_may_lack_classes_but_not_images(tmp_path):
    root = tmp_path / "vtab" / "svhn"
    (root / "images").mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(root / "images" / f"{i}.png")
    (root / "train800.txt").write_text("images/0.png 0\nimages/1.png 11\n")
    (root / "test.txt").write_text("images/2.png 1\nimages/3.png 2\n")
    content, found, _ = findings(tmp_path, f"vtab1k:{root}", "train800", "", "test")
    assert not content
    assert found["train", "count"]["text"].startswith("2 images, 800 were published (JPEG copies")
    assert found["train", "classes"]["text"] == "12 classes, 10 were published"
    assert found["train", "missing class"]["level"] == "warning"


def test_labels_out_of_range(tmp_path):
    """Scenes with fewer than three objects have no class in VTAB's counting task."""
    fake_tfds(tmp_path, "clevr", {"train": 8, "validation": 8}, lengths=(2, 3, 10, 11))
    content, found, _ = findings(tmp_path, "vtab/clevr_count", "train", "", "test", tmp_path)
    assert not content
    wrong = found["train", "label"]
    assert wrong["count"] == 4 and wrong["text"] == "4 labels are not in 0..7"
    assert sorted(e.rpartition(" ")[2] for e in wrong["examples"]) == ["-1", "-1", "8", "8"]


def test_a_file_of_a_list_that_is_gone(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("a.png,cat\nb.png,dog\n")
    content, found, _ = findings(tmp_path, f"csv:{tmp_path}/list.csv", "train", "", "")
    assert not content and "the first is b.png" in found["train", "open"]["text"]


def test_a_damaged_record(tmp_path):
    fake_tfds(tmp_path, "mnist", {"train": 5, "test": 3})
    folder = tfds.find("mnist", tmp_path)
    as_tfrecord(folder)
    (file,) = folder.glob("*train.tfrecord*")
    data = file.read_bytes()
    garbage = b"\xff" * int.from_bytes(data[:8], "little")
    file.write_bytes(frame(garbage) + data[len(frame(garbage)) :])
    content, found, _ = findings(tmp_path, "mnist", "train", "", "test", tmp_path)
    assert not content and found["train", "unreadable"]["count"] == 1
    assert "0: " in examples(found["train", "unreadable"])


def test_shapes_several_labels_and_arrays():
    pixels = np.zeros((4, 4, 3), np.uint8)
    records = [Record(pixels, (0, 2)), Record(pixels[:3], (1,)), Record(pixels + 1, ())]
    source = Source("s", ["a", "b", "c"], Memory(records), (4, 4, 3), multilabel=True)
    done = []
    examined = examine(source, 2, done.append)
    assert done == [3] and examined.kinds == {"array": [0, 2]}
    assert list(examined.unreadable) == [1] and "shape (3, 4, 3)" in examined.unreadable[1]
    assert examined.readable.tolist() == [0, 2] and examined.pixels[0] != examined.pixels[2]


def test_the_command_and_its_exit_status(photos, tmp_path):
    splits = [f"--config.data.{s}={s}" for s in ("train", "val", "test")]
    options = ["check-data", f"--config.data.name=folder:{photos}", *splits]
    recipe = f"--config={HOME}/configs/vpt_cifar.py"
    for i in range(40):  # enough for a rate
        Image.new("RGB", (9, 12), (i, 0, 0)).save(photos / "train" / "ant" / f"x{i}.png")
    done = main(*options, recipe, f"--workdir={tmp_path}/fine")
    assert done.returncode == 0, done.stderr_text
    assert "img/s" in done.stderr_text and "ETA" in done.stderr_text
    (photos / "val" / "ant" / "0.png").write_bytes(b"GIF89a")
    done = main(*options, recipe, f"--workdir={tmp_path}/faulty")
    assert done.returncode == 2
    assert "fault    val: 1 images cannot be read" in done.stdout_text
    assert "val/ant/0.png" in done.stdout_text
    assert json.loads((tmp_path / "faulty" / "data_check.json").read_text())["faults"] == 1
