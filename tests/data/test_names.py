"""What papers, programs and TFDS call data sets is known wherever a name is asked for."""

import pytest

from tests.data.fake import fake_tfds
from vpjax.core.errors import UserError
from vpjax.data import benchmarks, names, open_source, prepare
from vpjax.data.open import known_as

SA2VP = {
    "CUB": "caltech_birds2011",
    "BIRD": "nabirds:nabirds",
    "FLOWER": "oxford_flowers102",
    "DOG": "stanford_dogs",
    "CAR": "cars196",
    "CIFAR": "vtab/cifar100",
    "CAL101": "vtab/caltech101",
    "FLOWER_S": "vtab/flowers102",
    "PET": "vtab/pets",
    "SVHN_S": "vtab/svhn",
    "SUN": "vtab/sun397",
    "DS_LOC": "vtab/dsprites_location",
    "DS_ORI": "vtab/dsprites_orientation",
    "SN_AZI": "vtab/smallnorb_azimuth",
    "SN_ELE": "vtab/smallnorb_elevation",
    "DTD_DAM": "dtd",
    "GTSRB_DAM": "gtsrb:GTSRB",
    "FOOD_DAM": "food101",
    "CIFAR10_DAM": "cifar10",
    "SVHN_DAM": "svhn_cropped",
}
VPT = {
    "OxfordFlowers": "oxford_flowers102",
    "StanfordCars": "cars196",
    "vtab-caltech101": "vtab/caltech101",
    "vtab-cifar(num_classes=100)": "vtab/cifar100",
    'vtab-dsprites(predicted_attribute="label_x_position",num_classes=16)': (
        "vtab/dsprites_location"
    ),
    'vtab-smallnorb(predicted_attribute="label_elevation")': "vtab/smallnorb_elevation",
    'vtab-kitti(task="closest_vehicle_distance")': "vtab/kitti_distance",
    'vtab-diabetic_retinopathy(config="btgraham-300")': "vtab/retinopathy",
    "vtab-svhn": "vtab/svhn",
}
OTHER = {
    "fashion": "fashion_mnist",
    "Fashion-MNIST": "fashion_mnist",
    "CIFAR-10": "cifar10",
    "cifar100": "cifar100",
    "eurosat": "eurosat",
    "cifar10:3.0.2": "cifar10:3.0.2",
    "folder:CUB": "folder:CUB",
    "digits/low": "digits/low",
    "inat2021": "inat2021",
    "vtab/svnh": "vtab/svnh",
    "nothing_like_it": "nothing_like_it",
}


@pytest.mark.parametrize(("name", "opens"), (SA2VP | VPT | OTHER).items())
def test_names_for_the_command_line(name, opens, tmp_path):
    assert known_as(name, tmp_path) == opens
    if name not in OTHER:
        assert benchmarks.published(name) == benchmarks.published(opens) is not None


def test_every_name_means_one_data_set_of_its_benchmark():
    assert set(names.NAMES) == set(benchmarks.BENCHMARKS)
    for benchmark, sets in names.NAMES.items():
        assert set(sets) == set(benchmarks.BENCHMARKS[benchmark])
        words = {
            own: {names.plain(w) for w in [own, *others.split()]} for own, others in sets.items()
        }
        assert len(set().union(*words.values())) == sum(map(len, words.values()))
        for own, others in sets.items():
            for word in [own, own.upper(), *others.split()]:
                assert benchmarks.find(benchmark, word).name == own


def test_the_nearest_of_all_names():
    for benchmark, name, near in (("vtab", "DS_LOK", "DS_LOC"), ("fgvc", "flwers", "flowers")):
        with pytest.raises(UserError, match=f"Did you mean '{near}'"):
            benchmarks.find(benchmark, name)
    with pytest.raises(UserError, match="fashion"):
        prepare.prepare("fashon")


def test_a_folder_by_the_very_name_wins(tmp_path):
    fake_tfds(tmp_path, "fashion_mnist", {"train": 20, "test": 20})
    assert len(open_source("fashion", "train", tmp_path)) == 20
    (tmp_path / "fashion_mnist").rename(tmp_path / "fashion")
    for file in tmp_path.glob("fashion/*/dataset_info.json"):
        file.write_text(file.read_text().replace('"fashion_mnist"', '"fashion"'))
    for file in tmp_path.glob("fashion/*/fashion_mnist*"):
        file.rename(file.with_name(file.name.replace("fashion_mnist", "fashion")))
    assert open_source("fashion", "train", tmp_path).name.startswith("fashion:")


def test_a_folder_of_published_files_by_choice(tmp_path):
    found = benchmarks.settings("fgvc", "CUB", f"fgvc:{tmp_path}")
    assert found == {"name": f"fgvc:{tmp_path}", "train": "train", "val": "val", "test": "test"}
    assert benchmarks.settings("vtab", "DS_LOC", "vtab1k")["name"] == "vtab1k:dsprites_loc"
    with pytest.raises(UserError, match="has no folder of its own"):
        benchmarks.settings("fgvc", "cub", "tfds:/data")
