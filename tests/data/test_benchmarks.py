"""The published benchmarks: counts, splits and labels, on records in each builder's own format."""

import csv
import importlib.util
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from configs import finetune_fgvc, linear_fgvc, sa2vp_fgvc, sa2vp_hta, vpt_fgvc
from tests.data.fake import fake_tfds
from vpjax.core.errors import UserError
from vpjax.data import benchmarks, open_source, prepare, vtab
from vpjax.data.records import parse_split

# task: classes, val200, test, images of test; as the papers and VPT's code have them.
VTAB = {
    "cifar100": (100, "train[45000:45200]", "test", 10_000),
    "caltech101": (102, "train[2753:2953]", "test", 6_084),
    "dtd": (47, "validation[:200]", "test", 1_880),
    "flowers102": (102, "validation[:200]", "test", 6_149),
    "pets": (37, "train[2944:3144]", "test", 3_669),
    "svhn": (10, "train[65931:66131]", "test", 26_032),
    "sun397": (397, "validation[:200]", "test", 21_750),
    "patch_camelyon": (2, "validation[:200]", "test", 32_768),
    "eurosat": (10, "train[16200:16400]", "train[21600:]", 5_400),
    "resisc45": (45, "train[18900:19100]", "train[25200:]", 6_300),
    "retinopathy": (5, "validation[:200]", "test", 42_670),
    "clevr_count": (8, "train[63000:63200]", "validation", 15_000),
    "clevr_distance": (6, "train[63000:63200]", "validation", 15_000),
    "dmlab": (6, "validation[:200]", "test", 22_735),
    "kitti_distance": (4, "validation[:200]", "test", 711),
    "dsprites_location": (16, "train[589824:590024]", "train[663552:]", 73_728),
    "dsprites_orientation": (16, "train[589824:590024]", "train[663552:]", 73_728),
    "smallnorb_azimuth": (18, "test[:200]", "test[50%:]", 12_150),
    "smallnorb_elevation": (9, "test[:200]", "test[50%:]", 12_150),
}


@pytest.mark.parametrize("task", VTAB)
def test_a_task_is_as_published(task):
    classes, val, test, images = VTAB[task]
    data, rule = benchmarks.find("vtab", task), vtab.TASKS[task]
    train = benchmarks.PUBLISHED[rule.data].counts["train"]
    assert vtab.splits(rule, train) == {
        "train800": "train[:800]",
        "val200": val,
        "train800val200": f"train[:800]+{val}",
        "test": test,
    }
    assert (data.classes, data.group) == (classes, rule.group)
    for opening in data.openings:
        sizes = [benchmarks.expected(opening.name, s) for s in ("train800", "val200", "test")]
        assert sizes == [800, 200, images]
        assert benchmarks.expected(opening.name, opening.both) == 1000


def reference(task, example):
    """The task's label of an example as TFDS gives it, written down once more."""
    if task == "clevr_count":
        return len(example["objects"]) - 3
    if task == "clevr_distance":
        nearest = min(o["pixel_coords"][2] for o in example["objects"])
        return sum(nearest > t for t in np.float32([8, 8.5, 9, 9.5, 10]))
    if task == "kitti_distance":
        near = [o["location"][2] for o in example["objects"] if o["type"] in (0, 1, 2)]
        return sum(min(near) > t for t in (8, 20)) if near else 3
    if task == "dsprites_location":
        return example["label_x_position"] // 2
    if task == "dsprites_orientation":
        return example["label_orientation"] * 2 // 5
    return example[task.replace("smallnorb", "label") if "smallnorb" in task else "label"]


def examples(builder, split):
    """All examples, with sequences of dicts as lists of dicts."""
    for example in builder.as_data_source(split):
        objects = example.get("objects")
        if isinstance(objects, dict):
            n = len(next(iter(objects.values())))
            example["objects"] = [{k: v[i] for k, v in objects.items()} for i in range(n)]
        yield example


@pytest.mark.parametrize("data", sorted({t.data for t in vtab.TASKS.values()}))
def test_labels_of_records_in_the_builders_format(tmp_path, data):
    lengths = range(3, 11) if data == "clevr" else (0, 1, 2, 3)
    parts = [s for s in benchmarks.PUBLISHED[data].counts if s not in ("extra", "sample")]
    folder = fake_tfds(tmp_path, data, dict.fromkeys(parts, 24), lengths=lengths)
    builder = tfds.builder_from_directory(str(folder))
    for task in (name for name, t in vtab.TASKS.items() if t.data == data):
        words = {"test": vtab.TASKS[task].test} if "test" in parts else {}
        for part in parts:
            source = open_source(f"vtab/{task}", part, tmp_path)
            expected = [int(reference(task, e)) for e in examples(builder, words.get(part, part))]
            assert source.labels().tolist() == expected
            assert source.num_classes == VTAB[task][0]
            source.check(source.num_classes)
            image = source[0]["image"]
            truth = next(examples(builder, words.get(part, part)))["image"]
            np.testing.assert_array_equal(image, 255 * truth if data == "dsprites" else truth)
        counts = Counter(expected)
        assert len(counts) > 1 or source.num_classes == 1


WHOLE = {o.name for s in ("fgvc", "hta", "small") for d in benchmarks.BENCHMARKS[s].values()
         for o in d.openings if o.kind == "tfds" and "digits" not in o.name}  # fmt: skip


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_whole_data_sets_in_the_builders_format(tmp_path, name):
    counts = benchmarks.PUBLISHED[name].counts
    fake_tfds(tmp_path, name, {split: 20 for split in counts if split != "extra"})
    for data in benchmarks.columns(name):
        opening = next(o for o in data.openings if o.name == name)
        train, val, test = (open_source(name, s, tmp_path) for s in opening[1:])
        assert train.num_classes == val.num_classes == test.num_classes == data.classes
        assert len(train) + len(val) == (40 if "[" not in opening.train else 20)
        assert len(test) == 20
        both = open_source(name, opening.both, tmp_path)
        assert both.labels().tolist() == [*train.labels(), *val.labels()]
        if "[" not in opening.train:
            assert train.labels().tolist() != val.labels().tolist() or name == "dtd"
        test.check(data.classes)


def test_benchmarks_hold_what_they_should():
    sizes = {name: len(sets) for name, sets in benchmarks.BENCHMARKS.items()}
    assert sizes == {"vtab": 19, "fgvc": 5, "hta": 10, "small": 6, "inat": 2}
    assert list(benchmarks.BENCHMARKS["vtab"]) == list(VTAB)  # the order of published tables
    metrics = {d.metric for sets in benchmarks.BENCHMARKS.values() for d in sets.values()}
    assert metrics == {"accuracy"}
    cars = benchmarks.BENCHMARKS["fgvc"]["cars"]
    lists = next(o for o in cars.openings if o.kind == "fgvc")
    found = [benchmarks.expected(lists.name, s) for s in lists[1:]]
    assert found == [7_329, 815, 8_041]
    assert benchmarks.expected("food101", "train[:80%]") == 60_600
    assert benchmarks.expected("inat2021", "mini") == 500_000
    for sets in benchmarks.BENCHMARKS.values():
        for data in sets.values():
            for opening in data.openings:
                assert benchmarks.published(opening.name).classes == data.classes, opening
                for split in filter(None, opening[1:]):
                    assert benchmarks.expected(opening.name, split), (opening, split)


def test_names_are_known_however_they_are_spelt():
    for name, known in {
        "cifar10:3.0.2": "cifar10",
        "eurosat": "eurosat/rgb",
        "fgvc:/data/CUB_200_2011/": "fgvc:CUB_200_2011",
        "fgvc:../Stanford-Dogs": "fgvc:StanfordDogs",
        "vtab1k:/x/vtab/dsprites_ori": "vtab1k:dsprites_ori",
        "nabirds:birds": "nabirds:birds",
    }.items():
        assert benchmarks.known_name(name) == known
    assert benchmarks.published("folder:/my/photos") is None
    assert benchmarks.expected("folder:/my/photos", "train") is None
    assert benchmarks.expected("cifar10", "validation") is None
    assert benchmarks.expected("vtab/svhn", "extra[:10]") == 10
    assert [d.benchmark for d in benchmarks.columns("fgvc:/x/nabirds")] == ["fgvc", "hta"]
    assert [d.name for d in benchmarks.columns("vtab1k:/x/kitti")] == ["kitti_distance"]


def test_settings():
    assert benchmarks.settings("hta", "gtsrb")["name"] == "gtsrb:GTSRB"
    assert benchmarks.settings("fgvc", "cub", "fgvc") == {
        "name": "fgvc:CUB_200_2011",
        "train": "train",
        "val": "val",
        "test": "test",
    }
    with pytest.raises(UserError, match="unknown benchmark 'vtb'. Did you mean 'vtab'"):
        benchmarks.find("vtb", "svhn")
    with pytest.raises(UserError, match="data set of fgvc 'cubs'. Did you mean 'cub'"):
        benchmarks.settings("fgvc", "cubs")
    with pytest.raises(UserError, match="way to open cub 'json'. .*cub, fgvc, tfds"):
        benchmarks.settings("fgvc", "cub", "json")


def test_parts_of_a_split_string():
    sizes = {"train": 10, "test": 4}
    assert parse_split("train[:30%]+test[-2:]+train", sizes.__getitem__) == [
        ("train", 0, 3),
        ("test", 2, 4),
        ("train", 0, 10),
    ]


def photo(path, i):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 5), (i, 2 * i, 0)).save(path)


def bird_archive(root):
    """An archive like that of NABirds: 6 images of classes 3, 295 and 817, one of them for test."""
    rows = [
        ("a1", 295, 1),
        ("b2", 817, 1),
        ("c3", 3, 1),
        ("d4", 295, 0),
        ("e5", 3, 1),
        ("f6", 3, 1),
    ]
    lines = {"images": [], "image_class_labels": [], "train_test_split": []}
    for i, (image, label, train) in enumerate(rows):
        file = f"{label:04d}/{image}.jpg"
        photo(root / "images" / file, i)
        lines["images"].append(f"{image} {file}")
        lines["image_class_labels"].append(f"{image} {label}")
        lines["train_test_split"].append(f"{image} {train}")
    lines["classes"] = ["0 Birds", "3 Hawks (Adult, dark)", "295 Ring-necked Duck", "817 Wren"]
    for name, text in lines.items():
        (root / f"{name}.txt").write_text("\n".join(text) + "\n")


@pytest.mark.parametrize("kind", ["nabirds", "cub"])
def test_birds_as_their_authors_pack_them(tmp_path, kind):
    bird_archive(tmp_path / "nabirds")
    train = open_source(f"{kind}:nabirds", "train", tmp_path)
    assert train.classes == ("Hawks (Adult, dark)", "Ring-necked Duck", "Wren")
    found = dict(zip(train.records.names, train.labels().tolist(), strict=True))
    assert found == {
        "images/0295/a1.jpg": 1,
        "images/0817/b2.jpg": 2,
        "images/0003/c3.jpg": 0,
        "images/0003/e5.jpg": 0,
        "images/0003/f6.jpg": 0,
    }
    test = open_source(f"{kind}:{tmp_path}/nabirds", "test")
    assert test.labels().tolist() == [1] and test.num_classes == 3
    halves = [open_source(f"{kind}:nabirds", f"train{s}", tmp_path) for s in ("[:80%]", "[80%:]")]
    assert [len(h) for h in halves] == [4, 1]


def test_birds_that_are_not_whole(tmp_path):
    bird_archive(tmp_path)
    labels = tmp_path / "image_class_labels.txt"
    labels.write_text(labels.read_text().replace("f6 3\n", ""))
    with pytest.raises(UserError, match="list 6, 5 and 6 images"):
        open_source(f"nabirds:{tmp_path}", "train")
    labels.unlink()
    with pytest.raises(UserError, match="image_class_labels.txt cannot be read"):
        open_source(f"nabirds:{tmp_path}", "train")


def test_traffic_signs_as_their_authors_pack_them(tmp_path):
    root = tmp_path / "GTSRB"
    for i in range(6):
        photo(root / "Training" / f"{i % 2 * 7:05d}" / f"00000_{i:05d}.ppm", i)
    (root / "Training" / "00000" / "GT-00000.csv").write_text("Filename;ClassId\n")
    (root / "Training" / "Readme.txt").write_text("")
    train = open_source("gtsrb:GTSRB", "train", tmp_path)
    assert train.classes == ("0", "7") and sorted(train.labels()) == [0, 0, 0, 1, 1, 1]
    with pytest.raises(UserError, match="split of gtsrb:GTSRB 'test'"):
        open_source("gtsrb:GTSRB", "test", tmp_path)
    for i in range(3):
        photo(root / "Final_Test" / "Images" / f"{i:05d}.ppm", 50 + i)
    with open(root / "GT-final_test.csv", "w", newline="") as file:
        table = csv.writer(file, delimiter=";")
        table.writerows(
            [("Filename", "Width", "ClassId"), ("00000.ppm", 4, 7), ("00002.ppm", 4, 0)]
        )
    for place in (f"gtsrb:{tmp_path}", f"gtsrb:{root}"):
        test = open_source(place, "test")
        assert dict(zip(test.records.names, test.labels().tolist(), strict=True)) == {
            "Final_Test/Images/00000.ppm": 1,
            "Final_Test/Images/00002.ppm": 0,
        }
    (root / "GT-final_test.csv").write_text("Filename,ClassId\n00000.ppm,7\n")
    assert len(open_source("gtsrb:GTSRB", "test", tmp_path)) == 1  # saved by a spreadsheet
    (root / "GT-final_test.csv").write_text("Filename;ClassId\n00000.ppm;-1\n")
    with pytest.raises(UserError, match="GT-final_test.csv, line 2: label '-1' marks an image"):
        open_source("gtsrb:GTSRB", "test", tmp_path)
    (root / "GT-final_test.csv").write_text("Filename;Roi\n00000.ppm;7\n")
    with pytest.raises(UserError, match="no columns Filename and ClassId"):
        open_source("gtsrb:GTSRB", "test", tmp_path)
    photo(root / "Training" / "7" / "00000_00000.ppm", 1)
    with pytest.raises(UserError, match="two folders of class 7, 00007 and 7"):
        open_source("gtsrb:GTSRB", "train", tmp_path)
    shutil.rmtree(root / "Training" / "7")
    (root / "Final_Training").mkdir()
    (root / "Training").rename(root / "Final_Training" / "Images")
    assert len(open_source("gtsrb:GTSRB", "train", tmp_path)) == 6
    with pytest.raises(UserError, match="neither Training nor Final_Training"):
        open_source(f"gtsrb:{root}/Final_Test", "train")


def test_lists_of_every_kind_are_known(tmp_path):
    """VPT's lists and VTAB's text files, under the folder names people have."""
    lists = tmp_path / "CUB_200_2011"
    for i in range(3):
        photo(lists / "images" / f"{i}.jpg", i)
    for split, content in {"train": {"0.jpg": 1, "1.jpg": 2}, "test": {"2.jpg": 1}}.items():
        (lists / f"{split}.json").write_text(json.dumps(content))
    name = "fgvc:CUB_200_2011"
    assert open_source(name, "train", tmp_path).labels().tolist() in ([0, 1], [1, 0])
    assert benchmarks.expected(f"fgvc:{lists}", "val") == 600
    photo(tmp_path / "cifar" / "images" / "train800" / "000000.jpg", 1)
    (tmp_path / "cifar" / "train800.txt").write_text("images/train800/000000.jpg 99\n")
    source = open_source("vtab1k:cifar", "train800", tmp_path)
    assert source.num_classes == benchmarks.published("vtab1k:cifar").classes == 100


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("dmlab", r"needs tensorflow: pip install 'vpjax\[tensorflow\]', then python main"),
        ("sun397/tfds", r"needs tensorflow and cv2: pip install 'vpjax\[prepare,tensorflow\]'"),
        ("dsprites", r"needs h5py: pip install 'vpjax\[prepare\]', then .*prepare-data dsprites"),
        ("kitti", r"needs cv2"),
    ],
)
def test_what_preparing_needs_is_said_in_one_line(tmp_path, monkeypatch, name, match):
    there = importlib.util.find_spec
    absent = ("tensorflow", "cv2", "h5py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in absent else there(n))
    with pytest.raises(UserError, match=match) as error:
        prepare.prepare(name, tmp_path)
    assert "\n" not in str(error.value)


def test_the_stand_in_is_refused_where_it_cannot_do(tmp_path):
    with pytest.raises(UserError, match="dmlab can only be prepared with TensorFlow"):
        prepare.prepare("dmlab", tmp_path, backend="standin")


def test_recipes_take_their_data_from_here():
    for label, data in {"cub": "tfds", "nabirds": "nabirds", "cars,data=fgvc": "fgvc"}.items():
        task = label.partition(",")[0]
        wanted = benchmarks.settings("fgvc", task, data)
        for recipe in (vpt_fgvc, sa2vp_fgvc, linear_fgvc, finetune_fgvc):
            found = recipe.get_config(label).data
            assert {key: found[key] for key in wanted} == wanted
    assert sa2vp_hta.get_config("gtsrb").data.name == "gtsrb:GTSRB"
    assert sa2vp_hta.get_config("gtsrb,mode=train_val").data.test == ""
