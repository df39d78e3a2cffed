"""Names of classes as CLIP is told them: cleaned, or refused where they are numbers."""

import json

import pytest

from tests.data.conftest import numbered
from vpjax.core.errors import UserError
from vpjax.data.class_names import clean, dataset_of, is_id, named
from vpjax.models.text.features import prompts_of_classes
from vpjax.models.text.templates import choose, class_prompts


@pytest.mark.parametrize(
    ("name", "dataset", "expected"),
    [
        ("001.Black_footed_Albatross", "cub:CUB_200_2011", "Black footed Albatross"),
        ("200.Common_Yellowthroat", "caltech_birds2011", "Common Yellowthroat"),
        ("Common Eider (Adult male)", "nabirds:nabirds", "Common Eider (Adult male)"),
        ("n02085620-Chihuahua", "stanford_dogs", "Chihuahua"),
        ("n02107574-Greater_Swiss_Mountain_dog", "", "Greater Swiss Mountain dog"),
        ("n02102040_english_springer", "", "english springer"),
        ("007_sunflower", "", "sunflower"),
        ("AnnualCrop", "eurosat/rgb:2.0.0[train]", "Annual Crop"),
        ("HerbaceousVegetation", "zhou:x/split_zhou_EuroSAT.json", "Herbaceous Vegetation"),
        ("/a/airport_terminal", "sun397/tfds", "airport terminal"),
        ("/b/bar/outdoor", "sun397/tfds", "bar outdoor"),
        ("McLaren MP4-12C Coupe 2012", "cars196", "McLaren MP4-12C Coupe 2012"),
        ("707-320", "fgvc_aircraft", "707-320"),
        ("2 stroke engine", "", "2 stroke engine"),
        ("T-shirt/top", "fashion_mnist", "T-shirt/top"),
        ("17", "", "17"),
    ],
)
def test_names_are_cleaned(name, dataset, expected):
    assert clean(name, dataset) == expected


@pytest.mark.parametrize(
    "name", ["17", "007", "-1", "3.0", "n01440764", "class_12", "Class 3", "", " "]
)
def test_numbers_and_ids_are_no_names(name):
    assert is_id(name)


@pytest.mark.parametrize(
    "name", ["cat", "DC-10", "737-200", "Audi 100", "7 up", "A300B4", "t-shirt"]
)
def test_names_with_numbers_are_names(name):
    assert not is_id(name)


def test_a_source_has_cleaned_names_and_keeps_its_classes():
    source = numbered(4, classes=2)
    assert source.metadata[1]["name"] == "1" and source.classes == ("0", "1")


@pytest.mark.parametrize(
    ("dataset", "word"),
    [
        ("cub:/data/CUB_200_2011", "bird"),
        ("fgvc:/data/CUB_200_2011[train]", "bird"),
        ("nabirds:/x/nabirds", "bird"),
        ("fgvc:StanfordDogs", "dog"),
        ("fgvc:OxfordFlower", "flower"),
        ("oxford_flowers102:2.1.1[train]", "flower"),
        ("vtab/oxford_iiit_pet", "pet"),
        ("zhou:/d/split_zhou_StanfordCars.json", "car"),
        ("zhou:/d/split_zhou_DTD.json", "texture"),
        ("vtab1k:/d/dtd", "texture"),
    ],
)
def test_a_known_set_has_its_sentences_however_it_is_opened(dataset, word):
    found = class_prompts(["x"], choose("auto", ({"name": "x"},), dataset))
    assert any(word in sentence for sentence in found)
    assert dataset_of(dataset) == dataset_of(dataset).lower()


@pytest.mark.parametrize("names", [["17", "18"], ["cat", "3"], ["n01440764", "n01443537"]])
def test_ids_are_refused(names):
    for options in ({}, {"name_type": "common"}, {"templates": "a {name} outside"}):
        with pytest.raises(UserError, match=r"number or an id.*text.class_names"):
            prompts_of_classes(names, **options)


def test_digits_are_called_by_numbers():
    found = prompts_of_classes(["0", "1"], dataset="digits/low").prompts
    assert 'a photo of the digit "1"' in found


FORMS = {
    "order.txt": "Black_cat\ncow\n\ndog\n",
    "comma.csv": "002,cow\n001,001.Black_cat\n003,dog\n",
    "quoted.csv": '3,"dog"\n1,"Black cat"\n2,"cow"\n',
    "tab.tsv": "1\tBlack cat\n2\tcow\n3\tdog\n",
    "blank.txt": "1 001.Black_cat\n2 cow\n3 dog\n4 another\n",
    "map.json": json.dumps({"1": "Black cat", "2": "cow", "3": "dog"}),
    "list.json": json.dumps(["Black cat", "cow", "dog"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_gives_names(tmp_path, form):
    (tmp_path / form).write_text(FORMS[form], encoding="utf-8-sig")
    facts = [{"name": i, "id": 7} for i in "123"]
    found = named(("1", "2", "3"), facts, str(tmp_path / form))
    assert [f["name"] for f in found] == ["Black cat", "cow", "dog"]
    assert found[0]["id"] == 7 and named(("1",), facts[:1], "") == facts[:1]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("cat\ncow\n", "has 2 lines, and there are 3 classes"),
        ("cat\ncow\n17\n", "'17', which is a number"),
        ("", "has 0 lines"),
    ],
)
def test_a_file_that_does_not_suit(tmp_path, content, says):
    (tmp_path / "names.txt").write_text(content)
    with pytest.raises(UserError, match=says):
        named(("a", "b", "c"), [{}] * 3, str(tmp_path / "names.txt"))


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        named(("a",), [{}], str(tmp_path / "none.txt"))
    (tmp_path / "names.json").write_text('{"a": "cat"')
    with pytest.raises(UserError, match="cannot be read"):
        named(("a",), [{}], str(tmp_path / "names.json"))
    (tmp_path / "names.json").write_text('{"b": "cat"}')
    with pytest.raises(UserError, match="no name for 1 of 1 classes, such as 'a'"):
        named(("a",), [{}], str(tmp_path / "names.json"))


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_files_are_read_in_every_encoding_of_lists(tmp_path, coding):
    (tmp_path / "names.txt").write_bytes("a,chèvre\nb,cow\n".encode(coding))
    found = named(("a", "b"), [{}] * 2, str(tmp_path / "names.txt"))
    assert [facts["name"] for facts in found] == ["chèvre", "cow"]
