"""Class folders and lists of files: labels, splits, slices, and what may be wrong with them."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from vpjax.core.errors import UserError
from vpjax.data import cars, open_source


def picture(path, value=0, size=(7, 5), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


def classes(root, counts, ending="png"):
    for i, (name, n) in enumerate(counts.items()):
        for j in range(n):
            picture(root / name / f"{j}.{ending}", 10 * i + j)


def seen(source):
    return Counter(source.classes[label] for label in source.labels())


def test_a_folder_with_splits(tmp_path):
    classes(tmp_path / "train", {"zebra": 3, "ant": 4})
    classes(tmp_path / "val", {"zebra": 2, "ant": 1})
    classes(tmp_path / "test", {"zebra": 2})
    train = open_source(f"folder:{tmp_path}", "train")
    assert train.classes == ("ant", "zebra") and seen(train) == {"ant": 4, "zebra": 3}
    assert train[0]["image"].shape == (5, 7, 3)
    for split in ("val", "validation", "valid"):
        assert seen(open_source(f"folder:{tmp_path}", split)) == {"ant": 1, "zebra": 2}
    test = open_source(f"folder:{tmp_path}", "test")
    assert test.classes == train.classes and test.labels().tolist() == [1, 1]
    assert test.name == f"folder:{tmp_path.name}[test]"
    assert len(open_source(f"folder:{tmp_path.name}", "train+val", tmp_path.parent)) == 10


def test_a_single_folder_is_sampled_by_slices(tmp_path):
    classes(tmp_path, {"a": 50, "b": 50})
    name = f"folder:{tmp_path}"
    first, last = (open_source(name, s) for s in ("train[:50%]", "train[50%:]"))
    assert 15 < seen(first)["a"] < 35  # a sample, not the first class
    files = [
        {r.file for r in s.records.__getitems__(range(len(s)))}
        for s in (first, last, open_source(name, "train"))
    ]
    assert files[0] | files[1] == files[2] and not files[0] & files[1]
    before = open_source(name, "train").records.names
    picture(tmp_path / "a" / "new.png")
    after = open_source(name, "train").records.names
    assert [n for n in after if n != "a/new.png"] == before  # the rest stays in order


def test_what_counts_as_an_image(tmp_path):
    for i, name in enumerate(("x.jpg", "x.JPEG", "x.png", "x.webp", "deep/er/x.bmp")):
        picture(tmp_path / "a" / name, i)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    picture(tmp_path / "a" / ".hidden.png")
    picture(tmp_path / ".git" / "x.png")
    picture(tmp_path / "b" / "grey.png", 9, mode="L")
    source = open_source(f"folder:{tmp_path}", "train")
    assert source.classes == ("a", "b") and seen(source) == {"a": 5, "b": 1}
    assert all(e["image"].shape[2] == 3 for e in source.__getitems__(range(6)))


def test_classes_called_like_splits(tmp_path):
    classes(tmp_path, {"train": 2, "bus": 1})
    assert open_source(f"folder:{tmp_path}", "train").classes == ("bus", "train")


def test_an_empty_class_counts(tmp_path):
    classes(tmp_path / "train", {"a": 1, "c": 1})
    classes(tmp_path / "test", {"b": 1})
    (tmp_path / "train" / "b").mkdir()
    assert open_source(f"folder:{tmp_path}", "test").labels().tolist() == [1]


def test_folder_faults(tmp_path):
    classes(tmp_path / "train", {"cat": 1})
    classes(tmp_path / "test", {"cats": 1})
    name = f"folder:{tmp_path}"
    with pytest.raises(UserError, match="'test' has class 'cats', which 'train' lacks"):
        open_source(name, "test")
    with pytest.raises(UserError, match="Available: test, train"):
        open_source(name, "val")
    with pytest.raises(UserError, match="does not exist"):
        open_source(name + "x", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images in the form of 'folder'"):
        open_source(f"folder:{tmp_path}/empty", "train")
    picture(tmp_path / "flat" / "train" / "x.png")
    with pytest.raises(UserError, match="no subfolders; each class needs one"):
        open_source(f"folder:{tmp_path}/flat", "train")
    with pytest.raises(UserError, match="is no folder"):
        open_source(f"folder:{tmp_path}/train/cat/0.png", "train")
    with pytest.raises(UserError, match="'folder:PATH'"):
        open_source("folders:/x", "train")


def test_csv(tmp_path):
    for i in range(4):
        picture(tmp_path / "images" / f"{i}.png", i)
    (tmp_path / "plain.csv").write_text("0.png,dog\n1.png,cat\n\n2.png,dog\n3.png,cat\n")
    source = open_source(f"csv:{tmp_path}/plain.csv", "train")  # files are in images/
    assert source.classes == ("cat", "dog") and seen(source) == {"cat": 2, "dog": 2}
    for record in source.records.__getitems__(range(4)):
        assert record.label == {"0": 1, "1": 0, "2": 1, "3": 0}[record.file[7]]
    (tmp_path / "head.csv").write_text(
        "label,split,filename\n30,train,images/0.png\n4,train,images/1.png\n4,test,images/3.png\n"
    )
    source = open_source(f"csv:{tmp_path}/head.csv", "train")
    assert source.classes == ("4", "30")  # as numbers
    assert open_source(f"csv:{tmp_path}/head.csv", "test").labels().tolist() == [0]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a.png,cat\nb.png,cat\n", "1 of 2 files are not in .* the first is b.png"),
        ("a.png,cat\nb.png,\n", "line 2: the row .* has no path or no label"),
        ("label,name\ncat,a.png\n", "has no column 'path'; its columns: label, name"),
        ("a.png,cat,train\na.png,dog,test\n", "'test' has class 'dog'"),
        ("", "no images in the form of 'csv'"),
    ],
)
def test_csv_faults(tmp_path, text, match):
    picture(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=match):
        open_source(f"csv:{tmp_path}/list.csv", "train+test" if ",test" in text else "train")


def test_json_splits_share_the_ranks_of_train(tmp_path):
    names = [f"{i}.png" for i in range(5)]
    for i, name in enumerate(names):
        picture(tmp_path / "images" / name, i)
    (tmp_path / "train.json").write_text(json.dumps({"0.png": 10, "1.png": 3, "2.png": 200}))
    (tmp_path / "test.json").write_text(json.dumps({"3.png": 200, "4.png": 10}))
    train, test = (open_source(f"fgvc:{tmp_path}", s) for s in ("train", "test"))
    assert train.classes == test.classes == ("3", "10", "200")
    assert dict(zip(train.records.names, train.labels().tolist(), strict=True)) == {
        "images/0.png": 1,
        "images/1.png": 0,
        "images/2.png": 2,
    }
    assert sorted(test.labels()) == [1, 2]  # not renumbered
    (tmp_path / "test.json").write_text(json.dumps({"3.png": 4}))
    with pytest.raises(UserError, match="has class 4, which 'train' lacks"):
        open_source(f"fgvc:{tmp_path}", "test")
    (tmp_path / "test.json").write_text("[1]")
    with pytest.raises(UserError, match="holds a list"):
        open_source(f"fgvc:{tmp_path}", "test")
    (tmp_path / "test.json").write_text('{"a": [1]}')
    with pytest.raises(UserError, match="does not hold {file: class id}"):
        open_source(f"fgvc:{tmp_path}", "test")


def test_vtab_lists_keep_their_labels(tmp_path):
    for i in range(3):
        picture(tmp_path / "images" / "train800" / f"{i:06d}.jpg", i)
    lines = [f"images/train800/{i:06d}.jpg {label}\n" for i, label in enumerate((4, 0, 2))]
    (tmp_path / "train800.txt").write_text("".join(lines))
    (tmp_path / "test.txt").write_text("images/train800/000001.jpg 5\n")
    source = open_source(f"vtab1k:{tmp_path}", "train800")
    assert source.num_classes == 6 and sorted(source.labels()) == [0, 2, 4]
    assert open_source(f"vtab1k:{tmp_path}", "test").labels().tolist() == [5]
    (tmp_path / "test.txt").write_text("images/train800/000001.jpg five\n")
    with pytest.raises(UserError, match="test.txt, line 1: expected 'file label'"):
        open_source(f"vtab1k:{tmp_path}", "test")


def test_few_shot_lists_name_their_classes(tmp_path):
    for i in range(3):
        picture(tmp_path / "101_Objects" / f"{i}.png", i)
    content = {
        "train": [["0.png", 1, "leopard"], ["1.png", 0, "ant"]],
        "test": [["2.png", 0, "ant"]],
    }
    path = tmp_path / "split_zhou_Things.json"
    path.write_text(json.dumps(content))
    train = open_source(f"zhou:{path}", "train")
    assert train.classes == ("ant", "leopard") and seen(train) == {"ant": 1, "leopard": 1}
    assert open_source(f"zhou:{path}", "test").labels().tolist() == [0]
    path.write_text('{"train": [["0.png", 1]]}')
    with pytest.raises(UserError, match="does not hold"):
        open_source(f"zhou:{path}", "train")


def test_images_are_what_the_files_hold(tmp_path):
    classes(tmp_path, {"a": 3, "b": 2})
    source = open_source(f"folder:{tmp_path}", "train")
    for i, file in enumerate(source.records.names):
        np.testing.assert_array_equal(source[i]["image"], np.asarray(Image.open(tmp_path / file)))


@pytest.mark.parametrize(
    ("name", "make", "model", "kind"),
    [
        ("Acura Integra Type R 2001", "Acura", "Integra Type R", "car"),
        ("Audi S4 Sedan 2012", "Audi", "S4", "sedan"),
        ("2012 Aston Martin Virage Coupe", "Aston Martin", "Virage", "coupe"),
        ("Dodge Ram Pickup 3500 Crew Cab 2010", "Dodge", "Ram Pickup 3500", "pickup truck"),
        ("AM General Hummer SUV 2000", "AM General", "Hummer", "SUV"),
    ],
)
def test_what_a_cars_name_tells(name, make, model, kind):
    found = cars.facts(name)
    assert (found["make"], found["model"], found["type"]) == (make, model, kind)
    assert found["full_name"].startswith(make) and found["full_name"].endswith(found["year"])
