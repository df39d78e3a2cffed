"""iNaturalist from JSON and from TFDS: layouts, taxonomy, subsets, conversion, planted faults."""

import json
import logging
import os

import numpy as np
import pytest
from PIL import Image

from tests.data.fake import fake_tfds
from vpjax.core.errors import UserError
from vpjax.data import Loader, inat, open_source, preset
from vpjax.data.convert_inat import LEVELS, convert_inat, write_categories
from vpjax.data.subset import SUBSETS, find_classes, select_classes

IDS = (7, 2, 11)  # neither sorted nor contiguous


def category(i, **more):
    name = f"Genus{i % 2} spec{i}"
    taxa = {"kingdom": "Animalia", "phylum": "Pp", "class": "Aves", "order": "Passerines"}
    taxa |= {"family": f"Fam{i % 2}", "genus": f"Genus{i % 2}"}
    return {"id": i, "name": name, "supercategory": "Birds", **taxa, **more}


def photo(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(value).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(noise).save(path, "JPEG")


def write(root, version="2021", splits=("train", "val"), per_class=3, place=None, listed=True):
    """Writes photos and annotations; `place` turns a listed name into where the photo lies."""
    place = place or (lambda name: f"{version}/{name}")
    known = [category(i, common_name=f"Common {i}") for i in IDS]
    number = 0
    for split in splits:
        images, annotations = [], []
        for shot in range(per_class):
            for i in IDS:
                if version == "2018":
                    name = f"train_val2018/Birds/{i}/{split}{shot}.jpg"
                else:
                    prefix = {"mini": "train_mini"}.get(split, split)
                    name = f"{prefix}/{i:05d}_bird/{split}{shot}.jpg"
                photo(root / place(name), number)
                images.append({"id": number, "file_name": name})
                annotations.insert(0, {"id": number, "image_id": number, "category_id": i})
                number += 1
        content = {"images": images, "annotations": annotations}
        content["categories"] = (
            known if version == "2021" else [{"id": i, "name": "x"} for i in IDS]
        )
        stem = {"mini": "train_mini"}.get(split, split)
        (root / f"{stem}{version}.json").write_text(json.dumps(content))
    if listed:
        (root / "categories.json").write_text(json.dumps(known))
    return root


def rest(name):
    return name.partition("/")[2]


LAYOUTS = {
    "2021": [
        lambda name: f"2021/{name}",
        lambda name: f"2021/{rest(name)}",
        lambda name: name,
        lambda name: f"images/{name}",
        rest,
    ],
    "2018": [lambda name: f"2018/{rest(name)}", lambda name: f"2018/{name}", lambda name: name],
}


@pytest.mark.parametrize(
    ("version", "layout"), [(v, i) for v, found in LAYOUTS.items() for i in range(len(found))]
)
def test_every_layout(tmp_path, version, layout):
    write(tmp_path, version, place=LAYOUTS[version][layout])
    source = open_source(f"inat{version}", "train", tmp_path)
    assert source.classes == ("Genus0 spec2", "Genus1 spec7", "Genus1 spec11")
    assert source.labels().tolist() == [1, 0, 2] * 3
    assert source[4]["image"].shape == (9, 12, 3) and source[4]["label"] == 0
    assert len(open_source(f"inat{version}", "val", tmp_path)) == 9


def test_what_is_known_of_a_class(tmp_path):
    source = open_source("inat2021", "val", write(tmp_path))
    facts = source.metadata[1]
    assert facts["species"] == facts["scientific_name"] == "genus1 spec7"
    assert (facts["genus"], facts["family"], facts["order"]) == ("genus1", "fam1", "passerines")
    assert (facts["name"], facts["common_name"], facts["class"]) == (
        *("Genus1 spec7", "Common 7"),
        "Aves",
    )


def test_slices_and_sums(tmp_path):
    write(tmp_path)
    assert len(open_source("inat2021", "train[:50%]+val[-2:]", tmp_path)) == 4 + 2
    whole = open_source("inat2021", "train", tmp_path).labels()
    part = open_source("inat2021", "train[3:-1]", tmp_path).labels()
    np.testing.assert_array_equal(part, whole[3:-1])
    with pytest.raises(UserError, match="99 is outside of its 9 images"):
        open_source("inat2021", "train[:99]", tmp_path)
    with pytest.raises(UserError, match="cannot be read at 'train"):
        open_source("inat2021", "train[:5", tmp_path)
    with pytest.raises(UserError, match="Available: mini, train, val"):
        open_source("inat2021", "validate", tmp_path)


def test_the_mini_set(tmp_path):
    write(tmp_path, splits=("train", "mini"))
    assert open_source("inat2021", "mini", tmp_path)[0]["label"] == 1
    for path in (tmp_path / "2021" / "train_mini").rglob("*.jpg"):  # photos of the whole set do
        target = tmp_path / "2021" / "train" / path.relative_to(tmp_path / "2021" / "train_mini")
        path.rename(target)
    assert len(open_source("inat2021", "mini", tmp_path)) == 9


def test_other_names_of_annotation_files(tmp_path):
    write(tmp_path)
    (tmp_path / "train2021.json").rename(tmp_path / "train_2021.json")
    (tmp_path / "val2021.json").rename(tmp_path / "val.json")
    assert len(open_source("inat2021", "train+val", tmp_path)) == 18


def test_labels_do_not_need_the_photos(tmp_path):
    write(tmp_path)
    source = open_source("inat2021", "train", tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(b"")
    assert source.counts().tolist() == [3, 3, 3]


def test_fingerprints_tell_labels_and_order(tmp_path):
    write(tmp_path)
    first, again, other = (
        open_source("inat2021", split, tmp_path).fingerprint for split in ("train", "train", "val")
    )
    assert first == again != other
    assert open_source("inat2021", "train", tmp_path, "7,2").fingerprint != first


# Categories


def test_2021_without_categories_takes_those_of_the_train_json(tmp_path):
    write(tmp_path, listed=False)
    source = open_source("inat2021", "val", tmp_path)
    assert source.metadata[0]["genus"] == "genus0"
    path = write_categories(tmp_path, "2021")
    assert [c["id"] for c in json.loads(path.read_text())] == sorted(IDS)
    assert open_source("inat2021", "val", tmp_path).metadata == source.metadata


def test_2018_without_categories_has_ids_alone(tmp_path, caplog):
    write(tmp_path, "2018", listed=False)
    source = open_source("inat2018", "val", tmp_path)
    assert source.classes == ("2", "7", "11") and source.metadata[0] == {"id": 2}
    assert "neither names nor taxonomy" in caplog.text
    with pytest.raises(UserError, match="official download"):
        write_categories(tmp_path, "2018")


def test_without_any_categories_the_ids_that_train_shows_count(tmp_path):
    write(tmp_path, listed=False)
    for split in ("train", "val"):
        content = json.loads((tmp_path / f"{split}2021.json").read_text())
        del content["categories"]
        if split == "val":  # shows one class of three
            content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 11]
        (tmp_path / f"{split}2021.json").write_text(json.dumps(content))
    source = open_source("inat2021", "val", tmp_path)
    assert source.classes == ("2", "7", "11") and set(source.labels()) == {2}


# Faults


def test_missing_photos_are_left_out_and_counted_once(tmp_path, caplog):
    write(tmp_path)
    for name in ("train0", "train2"):
        (tmp_path / f"2021/train/00007_bird/{name}.jpg").unlink()
    source = open_source("inat2021", "train", tmp_path)
    assert len(source) == 7 and source.counts().tolist() == [3, 1, 3]
    warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 and warnings[0].startswith("2 of 9 images")
    assert "00007_bird/train0.jpg" in warnings[0]


def test_no_photos_at_all(tmp_path):
    write(tmp_path)
    os.rename(tmp_path / "2021", tmp_path / "elsewhere")
    with pytest.raises(UserError, match="none of the 9 images.*looked for as"):
        open_source("inat2021", "train", tmp_path)


@pytest.mark.parametrize("damage", ["broken", "gone"])
def test_a_photo_that_cannot_be_read_is_named(tmp_path, damage):
    write(tmp_path)
    source = open_source("inat2021", "train", tmp_path)
    path = tmp_path / "2021/train/00007_bird/train1.jpg"
    if damage == "broken":
        path.write_bytes(path.read_bytes()[:200])
    else:
        path.unlink()
    with pytest.raises(UserError, match="00007_bird/train1.jpg.* (is not a readable|cannot be)"):
        list(Loader(source, 9, preset("inception"), 8, train=False).batches())


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("train2021.json", "{", "no whole JSON file"),
        ("train2021.json", "[]", "does not hold 'images' and 'annotations'"),
        ("train2021.json", '{"images": [], "annotations": []}', "no labels in it"),
        ("categories.json", "{}", "does not hold a list of categories"),
        ("categories.json", json.dumps([category(2)]), "has category 7.*mixed"),
        ("categories.json", json.dumps([category(2)] * 2), "1 categories whose id occurred"),
        ("categories.json", "[3]", r"categories.json\[0\]: expected an object with 'id', found 3"),
        ("categories.json", '[{"id": "3"}]', r"\[0\]: 'id' is '3'; expected a whole number"),
        ("categories.json", json.dumps([category(2, family=7)]), r"\[0\]: 'family' is 7, expected"),
        (
            "train2021.json",
            '{"images": {}, "annotations": []}',
            "images: expected a list, found dict",
        ),
        ("train2021.json", '{"images": [],\n"annotations": [}', "no whole JSON file: .* line 2"),
        ("train2021.json", None, "expected train2021.json or train_2021.json or train.json"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, file, content, match):
    write(tmp_path)
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=match):
        open_source("inat2021", "train", tmp_path)


@pytest.mark.parametrize(
    ("part", "index", "change", "match"),
    [
        ("annotations", 3, {"category_id": None}, r"annotations\[3\]: 'category_id' is None"),
        ("annotations", 3, {"category_id": 7.5}, r"annotations\[3\]: 'category_id' is 7.5"),
        ("annotations", 3, {"category_id": -1}, r"annotations\[3\]: category_id is -1.*a label"),
        ("annotations", 8, {"image_id": 8}, r"annotations\[8\]: image 8 has category 7, and 11"),
        ("images", 2, {"file_name": 4}, r"images\[2\]: 'file_name' is 4; expected text"),
        ("images", 2, {"id": 1}, r"images\[2\]: id 1 is that of train/00002_bird/train0.jpg"),
        (
            "images",
            1,
            {"file_name": "train/00007_bird/train0.jpg"},
            r"images\[0\] and .* images\[1\]",
        ),
    ],
)
def test_entries_that_cannot_be_used(tmp_path, part, index, change, match):
    write(tmp_path)
    path = tmp_path / "train2021.json"
    content = json.loads(path.read_text())
    content[part][index] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=match):
        open_source("inat2021", "train", tmp_path)


@pytest.mark.parametrize(
    ("year", "prefix", "names"),
    [
        ("2017", "train_val_images/Aves/Danaus plexippus", ("Danaus plexippus", "Aglais io")),
        ("2019", "train_val2019/Birds/202", ("17", "4")),
    ],
)
@pytest.mark.parametrize("place", ["", "images/"])
def test_the_other_years(tmp_path, year, prefix, names, place):
    files = [f"{prefix}/{i}.jpg" for i in range(3)]
    for i, file in enumerate(files[:2]):
        photo(tmp_path / f"{place}{file}", i)
    content = {
        "images": [{"id": i, "file_name": file} for i, file in enumerate(files)],
        "annotations": [{"image_id": i, "category_id": (9, 5)[i]} for i in range(2)],
        "categories": [
            {"id": i, "name": n, "supercategory": "x"} for i, n in zip((9, 5), names, strict=True)
        ],
    }
    (tmp_path / f"train{year}.json").write_text(json.dumps(content))
    source = open_source(f"inat{year}", "train", tmp_path)
    assert source.labels().tolist() == [1, 0]
    assert source.classes == (("Aglais io", "Danaus plexippus") if year == "2017" else ("5", "9"))
    assert source.metadata[0].get("genus") == ("aglais" if year == "2017" else None)


def test_the_folder_must_be_given():
    with pytest.raises(UserError, match="--config.data.dir, such as data/iNat2018"):
        open_source("inat2018", "train")


# Subsets


@pytest.mark.parametrize(
    "classes",
    ["11, 2", "genus0 SPEC2,common 11", ("Genus1 spec11", "2"), (11, 2)],
)
def test_a_subset_is_relabelled_by_rank(tmp_path, classes):
    write(tmp_path)
    whole = open_source("inat2021", "train", tmp_path)
    source = open_source("inat2021", "train", tmp_path, classes)
    assert source.classes == ("Genus0 spec2", "Genus1 spec11")
    assert [m["id"] for m in source.metadata] == [2, 11]
    assert source.labels().tolist() == [0, 1] * 3
    assert [e["label"] for e in source.__getitems__(range(6))] == [0, 1] * 3
    np.testing.assert_array_equal(source[0]["image"], whole[1]["image"])
    np.testing.assert_array_equal(source[3]["image"], whole[5]["image"])
    assert source.name == "inat2021[train] (2 of 3 classes)"


def test_a_subset_from_a_file(tmp_path):
    write(tmp_path)
    (tmp_path / "some.txt").write_text("# birds\nGenus0 spec2\n\n7  # by id\n")
    source = open_source("inat2021", "val", tmp_path, str(tmp_path / "some.txt"))
    assert [m["id"] for m in source.metadata] == [2, 7]


def test_a_subset_of_any_data_set(tmp_path):
    fake_tfds(tmp_path, "cifar10", {"train": 40, "test": 16})
    whole = open_source("cifar10", "train", tmp_path)
    source = open_source("cifar10", "train", tmp_path, "3,8")
    assert source.num_classes == 2 and len(source) == 8
    wanted = [i for i, label in enumerate(whole.labels()) if label in (3, 8)]
    assert source.labels().tolist() == [int(whole.labels()[i] == 8) for i in wanted]
    np.testing.assert_array_equal(source[5]["image"], whole[wanted[5]]["image"])


def test_a_name_wins_over_an_id():
    source = open_source("digits/high", "test")
    assert find_classes(source, ["5"]) == [0] and find_classes(source, ["9", "7"]) == [2, 4]
    assert select_classes(source, "9,7").classes == ("7", "9")


def test_named_subsets(tmp_path):
    known = [category(i) for i in range(5430, 5450)]
    files = [f"val/{i}.jpg" for i in range(5430, 5450)]
    for name in files:
        photo(tmp_path / name)
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(files)],
        "annotations": [{"image_id": i, "category_id": 5430 + i} for i in range(20)],
    }
    (tmp_path / "val2021.json").write_text(json.dumps(content))
    (tmp_path / "categories.json").write_text(json.dumps(known))
    source = open_source("inat2021", "val", tmp_path, "lichen")
    assert [m["id"] for m in source.metadata] == list(SUBSETS["lichen"]) and len(source) == 6
    with pytest.raises(UserError, match="no class of name or id '2837' among its 20"):
        open_source("inat2021", "val", tmp_path, "wrasse")


@pytest.mark.parametrize(
    ("classes", "match"),
    [("Genus0 spec3", "nearest names are 'genus0 spec2'"), ("3", "id '3'"), (",", "no class")],
)
def test_subsets_that_cannot_be_meant(tmp_path, classes, match):
    with pytest.raises(UserError, match=match):
        open_source("inat2021", "train", write(tmp_path), classes)


# TFDS


def binomials(n, fill):
    """Names of a TFDS data set of n classes with ids in order."""
    return [{**category(i), "name": fill[i]} for i in range(n)]


@pytest.mark.parametrize("above", ["1.0.0", ".", ".."])
def test_tfds_2018_with_the_json_beside_it(tmp_path, above):
    folder = fake_tfds(tmp_path, "i_naturalist2018", {"train": 6, "validation": 4})
    source = open_source("i_naturalist2018", "validation", tmp_path)
    assert source.metadata[0] == {
        "name": "Hermodice carunculata",
        "species": "hermodice carunculata",
        "scientific_name": "hermodice carunculata",
        "genus": "hermodice",
    }
    known = binomials(8142, source.classes)
    place = folder.parent / above if above != "1.0.0" else folder
    (place / "categories.json").write_text(json.dumps(known[::-1]))
    source = open_source("i_naturalist2018", "train", tmp_path)
    assert source.metadata[5]["family"] == "fam1" and source.metadata[4]["genus"] == "genus0"
    known[3]["name"] = "Another thing"
    (place / "categories.json").write_text(json.dumps(known))
    with pytest.raises(UserError, match="here is 'Another thing' there"):
        open_source("i_naturalist2018", "train", tmp_path)
    (place / "categories.json").write_text(json.dumps(known[:3]))
    with pytest.raises(UserError, match="the 3 categories.*8142 classes.*their number"):
        open_source("i_naturalist2018", "train", tmp_path)


def test_tfds_2021_is_read_from_its_folder_alone(tmp_path):
    # The builder of TFDS cannot even be made: its list of names is not in the package.
    made = fake_tfds(tmp_path / "made", "oxford_flowers102", {"train": 6, "test": 4})
    folder = tmp_path / "i_naturalist2021" / "2.0.1"
    folder.parent.mkdir()
    made.rename(folder)
    names = [f"genus{i}_spec{i}" for i in range(102)]
    (folder / "label.labels.txt").write_text("\n".join(names) + "\n")
    info = (folder / "dataset_info.json").read_text()
    info = info.replace("oxford_flowers102", "i_naturalist2021").replace("2.1.1", "2.0.1")
    (folder / "dataset_info.json").write_text(info)
    for path in folder.glob("oxford*"):
        path.rename(folder / path.name.replace("oxford_flowers102", "i_naturalist2021"))
    source = open_source("i_naturalist2021", "train", tmp_path)
    assert source.name == "i_naturalist2021:2.0.1[train]"
    assert source.classes[7] == "genus7_spec7" and source.metadata[7]["species"] == "genus7 spec7"
    assert source[0]["image"].dtype == np.uint8
    known = [{**category(i), "name": f"Genus{i} spec{i}"} for i in range(102)]
    (folder / "categories.json").write_text(json.dumps(known))
    assert open_source("i_naturalist2021", "test", tmp_path).metadata[7]["order"] == "passerines"


# Conversion


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("version", ["2018", "2021"])
def test_conversion_and_again(tmp_path, monkeypatch, version, links):
    write(tmp_path, version, listed=version == "2018")
    if not links:
        monkeypatch.setattr(
            "pathlib.Path.symlink_to", lambda *a: (_ for _ in ()).throw(OSError("no links"))
        )
    for _ in range(2):
        target = convert_inat(tmp_path, version)
        assert target == tmp_path / "torchvision_format" / version
        photos = sorted(p.relative_to(target).as_posix() for p in target.rglob("*.jpg"))
        assert len(photos) == 18 and photos[0] == "Genus0_spec2/2/train0.jpg"
        assert all((target / p).is_symlink() == links for p in photos)
    metadata = json.loads((target.parent / "metadata.json").read_text())
    assert metadata["categories"]["full"] == ["Genus0 spec2", "Genus1 spec7", "Genus1 spec11"]
    assert metadata["categories"]["class"] == ["Aves"] * 3
    assert metadata["class_to_idx"] == {"full": [0, 1, 2]}
    assert set(metadata["categories"]) == {"full", *LEVELS}
    os.rename(tmp_path, tmp_path.with_name(tmp_path.name + "moved"))  # links are relative
    moved = tmp_path.with_name(tmp_path.name + "moved") / "torchvision_format" / version
    source = open_source(f"folder:{moved}", "train")
    assert len(source) == 18 and source.classes[0] == "Genus0_spec2"
    assert source[0]["image"].shape == (9, 12, 3)


def test_conversion_does_not_overwrite(tmp_path):
    write(tmp_path)
    target = convert_inat(tmp_path, "2021")
    link = target / "Genus0_spec2/2/train0.jpg"
    link.unlink()
    link.write_text("mine")
    with pytest.raises(UserError, match="exists and is not"):
        convert_inat(tmp_path, "2021")
    assert link.read_text() == "mine"


def test_a_dangling_link_is_mended(tmp_path):
    write(tmp_path)
    target = convert_inat(tmp_path, "2021")
    link = target / "Genus0_spec2/2/train0.jpg"
    link.unlink()
    link.symlink_to(tmp_path / "gone.jpg")
    convert_inat(tmp_path, "2021")
    assert link.exists()


def test_categories_only(tmp_path):
    write(tmp_path, listed=False)
    path = convert_inat(tmp_path, "2021", categories_only=True)
    assert path == tmp_path / "categories.json"
    assert not (tmp_path / "torchvision_format").exists()
    convert_inat(tmp_path, "2021")
    assert (tmp_path / "torchvision_format" / "metadata.json").exists()
    with pytest.raises(UserError, match="has no annotations"):
        convert_inat(tmp_path / "none", "2021")
    with pytest.raises(UserError, match="unknown version of iNaturalist '2020'"):
        convert_inat(tmp_path, "2020")


def test_candidates_are_in_the_order_of_likelihood():
    assert inat.candidates("train/a/b.jpg", "2021/") == [
        *("2021/train/a/b.jpg", "2021/a/b.jpg"),
        *("train/a/b.jpg", "a/b.jpg"),
    ]
    assert inat.candidates("a/b.jpg", "") == ["a/b.jpg", "a/b.jpg"]
