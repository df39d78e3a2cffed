"""Val and test taken out of train: by class, the same every time, as a run has recorded them."""

import collections
import logging

import numpy as np
import pytest
from PIL import Image

from vpjax.core.errors import UserError
from vpjax.data import lock, open_source
from vpjax.data.holdout import FILE, Holdout, assigned, read
from vpjax.data.own import own_data


def folder(root, **counts):
    """A folder for each class, with so many images."""
    for seed, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.random.default_rng((seed, i)).integers(0, 255, (8, 9, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def names(source):
    return set(source.records.names)


def opened(root, holdout, splits=("train", "val", "test"), kind="folder"):
    return {s: open_source(f"{kind}:{root}", s, holdout=holdout) for s in splits}


def test_every_class_gives_its_share_and_every_image_is_in_one_split(tmp_path):
    root = folder(tmp_path / "d", ant=20, bee=7, cat=3)
    found = opened(root, Holdout(0.15))
    assert {s: v.counts().tolist() for s, v in found.items()} == {
        "train": [14, 5, 1],
        "val": [3, 1, 1],
        "test": [3, 1, 1],
    }
    assert sum(len(v) for v in found.values()) == len(set.union(*map(names, found.values()))) == 30
    again = opened(root, Holdout(0.15))
    other = opened(root, Holdout(0.15, seed=1))
    assert names(again["test"]) == names(found["test"]) != names(other["test"])
    for source in found.values():  # labels are those of the images
        for name, record in zip(
            source.records.names, source.records.__getitems__(range(3)), strict=False
        ):
            assert record.file == name and source.classes[record.label] == name.split("/")[0]


def test_a_choice_does_not_depend_on_where_the_folder_lies(tmp_path):
    a, b = (folder(tmp_path / name, ant=9, bee=9) for name in ("a", "b"))
    assert [names(s) for s in opened(a, Holdout(0.2)).values()] == [
        names(s) for s in opened(b, Holdout(0.2)).values()
    ]


@pytest.mark.parametrize("exists", ["test", "val", "valid"])
def test_splits_that_exist_are_read_and_the_other_is_taken_from_train(tmp_path, exists):
    folder(tmp_path / "train", ant=10, bee=10)
    folder(tmp_path / exists, ant=4, bee=5)
    part = "test" if exists == "test" else "val"
    made = "val" if part == "test" else "test"
    holdout = Holdout(0.1)
    found = opened(tmp_path, holdout)
    assert holdout.made == (made,)
    assert found[part].counts().tolist() == [4, 5]
    assert found[made].counts().tolist() == [1, 1]
    assert found["train"].counts().tolist() == [9, 9]
    both = open_source(f"folder:{tmp_path}", f"train+{part}", holdout=holdout)
    assert names(both) == names(found["train"]) | names(found[part])
    assert len(open_source(f"folder:{tmp_path}", f"{made}+train[:3]", holdout=holdout)) == 5


def test_all_splits_exist(tmp_path):
    for split in ("train", "validation", "test"):
        folder(tmp_path / split, ant=3, bee=4)
    holdout = Holdout(0.3)
    assert [len(s) for s in opened(tmp_path, holdout).values()] == [7, 7, 7]
    assert holdout.made == ()
    holdout.record(tmp_path)
    assert not (tmp_path / FILE).exists()


def test_small_classes_are_named(tmp_path, caplog):
    root = folder(tmp_path / "d", ant=8, pair=2, single=1)
    with caplog.at_level(logging.WARNING, logger="vpjax"):
        found = opened(root, Holdout(0.15))
    assert found["train"].counts().tolist() == [6, 1, 1]
    assert found["test"].counts().tolist() == [1, 1, 0]
    assert found["val"].counts().tolist() == [1, 0, 0]
    (record,) = caplog.records  # once, though three splits were opened
    assert "none in test: single; none in val: pair, single" in record.getMessage()
    with pytest.raises(UserError, match="every class has one image"):
        opened(folder(tmp_path / "e", ant=1, bee=1), Holdout(0.15))


def test_a_recorded_list_is_kept_to(tmp_path, caplog):
    root = folder(tmp_path / "d", ant=10, bee=10)
    first = Holdout(0.2)
    found = opened(root, first)
    first.record(tmp_path)
    assert (tmp_path / FILE).read_text().startswith("path,label,split\nant/0.png,ant,")
    listed = read(tmp_path / FILE)
    assert collections.Counter(split for _, split in listed.values()) == {
        "train": 12,
        "val": 4,
        "test": 4,
    }
    folder(root, ant=14)  # four more
    kept = Holdout(0.2, recorded=tmp_path / FILE)
    with caplog.at_level(logging.WARNING, logger="vpjax"):
        again = opened(root, kept)
    assert [names(s) for s in again.values()] == [names(s) for s in found.values()]
    assert "4 images are not in" in caplog.text and "ant/1" in caplog.text
    (root / "bee" / "3.png").unlink()
    with pytest.raises(UserError, match=r"1 images that folder:d\[train\] has not.* bee/3.png"):
        opened(root, Holdout(0.2, recorded=tmp_path / FILE))


def test_a_recorded_list_does_not_fit_other_classes_or_splits(tmp_path):
    table = tmp_path / "list.csv"
    root = folder(tmp_path / "d", ant=6, bee=6)
    rows = [f"d/{c}/{i}.png,{c}" for c in ("ant", "bee") for i in range(6)]
    table.write_text("\n".join(["path,label", *rows]))
    first = Holdout(0.2)
    assert opened(table, first, kind="csv")["test"].counts().tolist() == [1, 1]
    first.record(tmp_path)
    table.write_text("\n".join(["path,label", rows[0].replace(",ant", ",bee"), *rows[1:]]))
    with pytest.raises(UserError, match=r"lists d/ant/0.png as 'ant', now it is 'bee'"):
        opened(table, Holdout(0.2, recorded=tmp_path / FILE), kind="csv")
    parts = [
        f"{row},{'test' if 'png,bee' in row and i > 9 else 'train'}" for i, row in enumerate(rows)
    ]
    table.write_text("\n".join(["path,label,split", *parts]))
    with pytest.raises(UserError, match="the data set has this split now"):
        opened(table, Holdout(0.2, recorded=tmp_path / FILE), kind="csv")
    assert root.is_dir()


def test_data_without_files_are_split_too():
    holdout = Holdout(0.1)
    found = {s: open_source("digits/high", s, holdout=holdout) for s in ("train", "val", "test")}
    assert len(found["test"]) == len(open_source("digits/high", "test"))
    assert len(found["train"]) + len(found["val"]) == len(open_source("digits/high", "train"))
    assert found["val"].counts().min() > 10
    image = found["val"][0]["image"]
    index = int(found["val"].records.indices[0])
    assert np.array_equal(image, open_source("digits/high", "train")[index]["image"])


def test_no_split_shares_stored_images_with_the_locked_one(tmp_path):
    root = folder(tmp_path / "d", ant=10, bee=10)
    holdout = Holdout(0.2)
    where = {"data_dir": None, "holdout": holdout}
    with lock.lock_split(f"folder:{root}", "test", tmp_path / "no", **where):
        open_source(f"folder:{root}", "train+val", holdout=holdout)
        with pytest.raises(lock.Locked):
            open_source(f"folder:{root}", "val+test[:1]", holdout=holdout)
        with pytest.raises(lock.Locked):
            open_source(f"folder:{root}", "train")


@pytest.mark.parametrize("share", [-0.1, 0.5])
def test_a_share_out_of_range(share):
    with pytest.raises(UserError, match=r"data.holdout is"):
        Holdout(share)


@pytest.mark.parametrize("size", range(1, 30))
def test_train_keeps_an_image_of_every_class_and_the_parts_are_even(size):
    keys = [f"{i}.png" for i in range(size)]
    count = collections.Counter(assigned(keys, [0] * size, ["test", "val"], 0.15, 0))
    assert count["train"] >= 1 and count["test"] >= count["val"]
    assert size < 3 or count["test"] == count["val"] == max(1, round(0.15 * size))


def test_what_own_data_are(tmp_path, monkeypatch):
    root = folder(tmp_path / "d, e", ant=2, bee=2)
    monkeypatch.chdir(tmp_path)
    assert own_data("d, e/") == f"folder:{root}"
    assert own_data("fgvc:x") == f"fgvc:{tmp_path}/x"
    (tmp_path / "l.tsv").write_text("path\tlabel\n")
    assert own_data("l.tsv") == f"csv:{tmp_path}/l.tsv"
    assert own_data("eurosat/rgb:2.0.0") == "eurosat/rgb:2.0.0"
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "flat" / "a.png")
    for place, text in {
        "flat": "has no folders of classes, but 1 images",
        "flat/a.png": "is one file, and no list of files",
        "./gone/x": f"does not exist.*{tmp_path} is there",
    }.items():
        with pytest.raises(UserError, match=text):
            own_data(place)
