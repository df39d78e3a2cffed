"""Other names of data sets: those of papers, of published programs, of TFDS and of torchvision.

    called("vtab", "DS_LOC", ...)                       "dsprites_location"
    opened("FLOWER_S")                                  "vtab/flowers102", for config.data.name
    opened("fashion")                                   "fashion_mnist"

Case does not count, nor whether "-" or "_" is written. This is the one table of such names.
"""

import re
from collections.abc import Mapping

from vpjax.core.errors import unknown

# {benchmark: {its own name: other names}}. Those in capitals are SA2VP's, with brackets VPT's.
NAMES: dict[str, dict[str, str]] = {
    "vtab": {
        "cifar100": "CIFAR CIFAR_100 cifar(num_classes=100) CIFAR_ori",
        "caltech101": "CAL101",
        "dtd": "",
        "flowers102": "FLOWER_S oxford_flowers102",
        "pets": "PET oxford_iiit_pet",
        "svhn": "SVHN_S svhn_cropped",
        "sun397": "SUN sun397/tfds",
        "patch_camelyon": "camelyon",
        "eurosat": "eurosat/rgb",
        "resisc45": "",
        "retinopathy": 'diabetic_retinopathy diabetic_retinopathy(config="btgraham-300") '
        "diabetic_retinopathy_detection/btgraham-300",
        "clevr_count": 'clevr(task="count_all")',
        "clevr_distance": 'clevr_dist clevr(task="closest_object_distance")',
        "dmlab": "",
        "kitti_distance": 'kitti kitti(task="closest_vehicle_distance")',
        "dsprites_location": "DS_LOC dsprites_loc "
        'dsprites(predicted_attribute="label_x_position",num_classes=16)',
        "dsprites_orientation": "DS_ORI dsprites_ori "
        'dsprites(predicted_attribute="label_orientation",num_classes=16)',
        "smallnorb_azimuth": 'SN_AZI smallnorb_azi smallnorb(predicted_attribute="label_azimuth")',
        "smallnorb_elevation": "SN_ELE smallnorb_ele "
        'smallnorb(predicted_attribute="label_elevation")',
    },
    "fgvc": {
        "cub": "CUB CUB_200_2011 CUB200 caltech_birds2011",
        "nabirds": "BIRD",
        "flowers": "FLOWER OxfordFlowers OxfordFlower oxford_flowers102 flowers102",
        "dogs": "DOG StanfordDogs stanford_dogs",
        "cars": "CAR StanfordCars stanford_cars cars196",
    },
    "hta": {
        "cifar10": "CIFAR10_DAM",
        "cifar100": "CIFAR100_DAM",
        "svhn": "SVHN_DAM svhn_cropped",
        "dtd": "DTD_DAM",
        "food101": "FOOD_DAM FOOD",
        "gtsrb": "GTSRB_DAM",
    },
    "small": {
        "cifar10": "CIFAR_10",
        "cifar100": "CIFAR_100",
        "mnist": "",
        "fashion_mnist": "fashion FMNIST FashionMNIST",
        "digits/high": "",
        "digits/low": "",
    },
    "inat": {"2018": "inat2018 i_naturalist2018", "2021": "inat2021 i_naturalist2021"},
}
NAMES["hta"] |= {name: NAMES["fgvc"][name] for name in ("cub", "nabirds", "dogs", "flowers")}
# For config.data.name: what these other names open, where they are not TFDS's own.
OPENED = {"fgvc": {"cub": "caltech_birds2011", "nabirds": "nabirds:nabirds", "cars": "cars196"}}
OPENED["fgvc"] |= {"flowers": "oxford_flowers102", "dogs": "stanford_dogs"}
OPENED["hta"] = {"svhn": "svhn_cropped", "gtsrb": "gtsrb:GTSRB"}


def plain(name: str) -> str:
    """Return a name as it is compared: in lower case, without "vtab-" and quotation marks."""
    name = re.sub(r"[\s\"']", "", name.lower()).replace("-", "_")
    return re.sub(r"^vtab(_1k)?[_/]", "", name)


def called(benchmark: str, name: str) -> str:
    """Return what a benchmark calls a data set.

    Args:
        benchmark: a key of `NAMES`.
        name: its own name, or another.

    Raises:
        UserError: with the nearest of all its names, for one that it does not have.
    """
    sets = NAMES[benchmark]
    if name in sets:
        return name
    for own, others in sets.items():
        if plain(name) in map(plain, [own, *others.split()]):
            return own
    raise unknown(f"data set of {benchmark}", name, [*sets, *" ".join(sets.values()).split()])


def opened(name: str, known: Mapping[str, object]) -> str:
    """Return the name that opens a data set which is called by another; or the name itself.

    Args:
        name: as in config.data.name.
        known: names that open data sets, which mean what they say.
    """
    if ":" in name or "\\" in name or name in known:
        return name
    if re.match(r"vtab(-1k)?[-/]", name, re.IGNORECASE):
        own = next((o for o, n in NAMES["vtab"].items() if plain(name) in _plain(o, n)), "")
        return f"vtab/{own}" if own else name
    if same := [k for k in known if ":" not in k and plain(k) == plain(name)]:
        return same[0]
    for benchmark in ("fgvc", "vtab", "small", "hta"):
        for own, others in NAMES[benchmark].items():
            is_own = plain(name) == plain(own) and own in OPENED.get(benchmark, {})
            if is_own or plain(name) in _plain("", others):
                usual = f"vtab/{own}" if benchmark == "vtab" else own
                return OPENED.get(benchmark, {}).get(own, usual)
    return name


def others() -> list[str]:
    """Return all other names, to find the nearest."""
    return [word for sets in NAMES.values() for names in sets.values() for word in names.split()]


def _plain(own: str, others: str) -> set[str]:
    return {plain(word) for word in [own, *others.split()]} - {""}
