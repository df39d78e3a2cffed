"""The benchmarks that papers report, as data: their data sets, the numbers of images, the splits.

    BENCHMARKS["vtab"]["svhn"]                    DataSet: group, classes, metric, ways to open it
    settings("fgvc", "cub", "fgvc")               {"name": "fgvc:CUB_200_2011", "train": ...}
    expected("vtab/svhn", "test")                 26032, as published

Every other list of data sets (in recipes, reports, `vpjax.data.check`) is made from this one.
Numbers are those of the builders of TFDS 4.9.10, and of the papers for data sets that TFDS lacks;
VTAB-1k: arXiv 1910.04867, FGVC: VPT's lists, arXiv 2203.12119, HTA: SA2VP, arXiv 2312.10376.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from vpjax.core.errors import UserError, unknown
from vpjax.data import names, vtab
from vpjax.data.records import parse_split


class Published(NamedTuple):
    """A data set as it was published, under the name that opens it."""

    classes: int | None  # None: labels are derived, see `vtab`
    counts: Mapping[str, int]  # images of each whole split
    note: str = ""


class Opening(NamedTuple):
    """One way to open a data set: its name and splits, for config.data.

    For folders, `name` holds the usual name of the folder in config.data.dir; any path may be given
    instead.
    """

    name: str
    train: str
    val: str
    test: str

    @property
    def kind(self) -> str:
        """Format of the files: "tfds", "json", or one of `vpjax.data.folder.READERS`."""
        if self.name in ("inat2018", "inat2021"):
            return "json"
        return self.name.partition(":")[0] if ":" in self.name else "tfds"

    @property
    def both(self) -> str:
        """Split string of train and val together, for the final runs."""
        if self.train == "train800":
            return "train800val200"
        return f"{self.train}+{self.val}" if self.val else self.train


class DataSet(NamedTuple):
    """A data set of a benchmark: a column of a results table."""

    benchmark: str
    name: str
    group: str  # means are taken over groups; "" where the benchmark has none
    classes: int
    openings: tuple[Opening, ...]
    metric: str = "accuracy"  # or "mean_class_accuracy", as in vpjax/train/evaluate.py


def _halves(train: int, test: int) -> dict[str, int]:
    return {"train": train, "test": test}


def _thirds(train: int, val: int, test: int, name: str = "val") -> dict[str, int]:
    return {"train": train, name: val, "test": test}


_LISTED = "its train/test split follows the order of a directory listing, and may differ between "
_LISTED += "machines: compare the digest of vpjax.data.check before you compare results"
_COPIES = "JPEG copies of the original images: no table should also hold vtab/<task>"
_SIGNS = "39,209 are those of Final_Training, the larger of its two training sets"
PUBLISHED = {
    "cifar10": Published(10, _halves(50_000, 10_000)),
    "cifar100": Published(100, _halves(50_000, 10_000)),
    "mnist": Published(10, _halves(60_000, 10_000)),
    "fashion_mnist": Published(10, _halves(60_000, 10_000)),
    "digits/low": Published(5, _halves(708, 193)),
    "digits/high": Published(5, _halves(729, 167)),
    "caltech101": Published(102, _halves(3_059, 6_084), _LISTED),
    "dtd": Published(47, _thirds(1_880, 1_880, 1_880, "validation")),
    "oxford_flowers102": Published(102, _thirds(1_020, 1_020, 6_149, "validation")),
    "oxford_iiit_pet": Published(37, _halves(3_680, 3_669)),
    "svhn_cropped": Published(10, _halves(73_257, 26_032) | {"extra": 531_131}),
    "sun397/tfds": Published(397, _thirds(76_127, 10_875, 21_750, "validation")),
    "patch_camelyon": Published(2, _thirds(262_144, 32_768, 32_768, "validation")),
    "eurosat/rgb": Published(10, {"train": 27_000}),
    "resisc45": Published(45, {"train": 31_500}),
    "diabetic_retinopathy_detection/btgraham-300": Published(
        5, _thirds(35_126, 10_906, 42_670, "validation") | {"sample": 10}
    ),
    "clevr": Published(None, _thirds(70_000, 15_000, 15_000, "validation")),
    "dmlab": Published(6, _thirds(65_550, 22_628, 22_735, "validation")),
    "kitti": Published(None, _thirds(6_347, 423, 711, "validation")),
    "dsprites": Published(None, {"train": 737_280}),
    "smallnorb": Published(None, _halves(24_300, 24_300)),
    "caltech_birds2011": Published(200, _halves(5_994, 5_794)),
    "stanford_dogs": Published(120, _halves(12_000, 8_580)),
    "cars196": Published(196, _halves(8_144, 8_041)),
    "food101": Published(101, {"train": 75_750, "validation": 25_250}),
    "i_naturalist2018": Published(8_142, {"train": 437_513, "validation": 24_426}),
    "i_naturalist2021": Published(10_000, {"train": 2_686_843, "val": 100_000}),
    "inat2018": Published(8_142, {"train": 437_513, "val": 24_426}),
    "inat2021": Published(10_000, {"train": 2_686_843, "val": 100_000, "mini": 500_000}),
    "fgvc:CUB_200_2011": Published(200, _thirds(5_394, 600, 5_794)),
    "fgvc:nabirds": Published(555, _thirds(21_536, 2_393, 24_633)),
    "fgvc:OxfordFlower": Published(102, _thirds(1_020, 1_020, 6_149)),
    "fgvc:StanfordDogs": Published(120, _thirds(10_800, 1_200, 8_580)),
    "fgvc:StanfordCars": Published(196, _thirds(7_329, 815, 8_041)),
    "cub:CUB_200_2011": Published(200, _halves(5_994, 5_794)),
    "nabirds:nabirds": Published(555, _halves(23_929, 24_633)),
    "gtsrb:GTSRB": Published(43, _halves(26_640, 12_630), _SIGNS),
}

# Other names, in lower case, of the folders of VPT's lists.
FOLDERS = {
    "cub": "CUB_200_2011",
    "oxfordflowers": "OxfordFlower",
    "flowers": "OxfordFlower",
    "stanford-dogs": "StanfordDogs",
    "dogs": "StanfordDogs",
    "stanford-cars": "StanfordCars",
    "cars": "StanfordCars",
}
# Folders of VTAB-1k as image files, where they are not called as the task.
VTAB_FOLDERS = {
    "cifar100": "cifar",
    "flowers102": "oxford_flowers102",
    "pets": "oxford_iiit_pet",
    "retinopathy": "diabetic_retinopathy",
    "clevr_distance": "clevr_dist",
    "kitti_distance": "kitti",
    "dsprites_location": "dsprites_loc",
    "dsprites_orientation": "dsprites_ori",
    "smallnorb_azimuth": "smallnorb_azi",
    "smallnorb_elevation": "smallnorb_ele",
}
_CONFIGS = {"eurosat": "eurosat/rgb", "sun397": "sun397/tfds"}  # TFDS's default configs
_NORB = {"smallnorb_azimuth": 18, "smallnorb_elevation": 9}


def _vtab() -> dict[str, DataSet]:
    out = {}
    for name, task in vtab.TASKS.items():
        ways = f"vtab/{name}", f"vtab1k:{VTAB_FOLDERS.get(name, name)}"
        openings = tuple(Opening(n, "train800", "val200", "test") for n in ways)
        classes = task.classes or _NORB.get(name) or PUBLISHED[task.data].classes
        out[name] = DataSet("vtab", name, task.group, classes, openings)
    return out


def _vtab_folders() -> dict[str, Published]:
    out = {}
    for data in _vtab().values():
        task = vtab.TASKS[data.name]
        test = parse_split(task.test, PUBLISHED[task.data].counts.__getitem__)
        counts = {"train800": 800, "val200": 200, "train800val200": 1000}
        counts["test"] = sum(stop - start for _, start, stop in test)
        out[data.openings[1].name] = Published(data.classes, counts, _COPIES)
    return out


def _sets(benchmark: str, share: int, sets: Mapping[str, tuple[str, ...]]) -> dict[str, DataSet]:
    """Return a benchmark without groups; if val is cut from train, `share` percent remain."""
    out = {}
    for name, opened in sets.items():
        openings = []
        for source in opened:
            counts = PUBLISHED[source].counts
            val = next((v for v in ("validation", "val") if v in counts and "test" in counts), None)
            train = "train" if val else f"train[:{share}%]"
            test = "test" if "test" in counts else "validation"
            openings.append(Opening(source, train, val or f"train[{share}%:]", test))
        out[name] = DataSet(benchmark, name, "", PUBLISHED[opened[0]].classes, tuple(openings))
    return out


_FINE = {
    "cub": ("caltech_birds2011", "fgvc:CUB_200_2011", "cub:CUB_200_2011"),
    "nabirds": ("nabirds:nabirds", "fgvc:nabirds"),
    "flowers": ("oxford_flowers102", "fgvc:OxfordFlower"),
    "dogs": ("stanford_dogs", "fgvc:StanfordDogs"),
    "cars": ("cars196", "fgvc:StanfordCars"),
}
_WHOLE = {
    "cifar10": ("cifar10",),
    "cifar100": ("cifar100",),
    "svhn": ("svhn_cropped",),
    "dtd": ("dtd",),
    "food101": ("food101",),
    "gtsrb": ("gtsrb:GTSRB",),
}
_SMALL = ("cifar10", "cifar100", "mnist", "fashion_mnist", "digits/low", "digits/high")
PUBLISHED |= _vtab_folders()
BENCHMARKS = {
    "vtab": _vtab(),
    "fgvc": _sets("fgvc", 90, _FINE),
    "hta": _sets("hta", 80, _WHOLE | {k: _FINE[k] for k in ("cub", "nabirds", "dogs", "flowers")}),
    "small": _sets("small", 90, {name: (name,) for name in _SMALL}),
    # Only val was published with labels, so results are reported on it.
    "inat": {
        year: DataSet(
            "inat",
            year,
            "",
            PUBLISHED[f"inat{year}"].classes,
            (
                Opening(f"inat{year}", "train", "val", ""),
                Opening(f"i_naturalist{year}", "train", val, ""),
            ),
        )
        for year, val in (("2018", "validation"), ("2021", "val"))
    },
}


def find(benchmark: str, name: str) -> DataSet:
    """Return a data set of a benchmark, by its name or another, see `vpjax.data.names`.

    Raises: UserError if there is no such benchmark, or no such data set in it.
    """
    if benchmark not in BENCHMARKS:
        raise unknown("benchmark", benchmark, BENCHMARKS)
    return BENCHMARKS[benchmark][names.called(benchmark, name)]


def settings(benchmark: str, name: str, kind: str = "") -> dict[str, str]:
    """Return the keys of config.data for a data set: name, train, val and test.

    Args:
        benchmark: such as "fgvc".
        name: such as "cub".
        kind: which way to open it, see `Opening.kind`; by default the first. A path may follow, as
            in "fgvc:/data/CUB": else it is the usual folder in config.data.dir.

    Raises:
        UserError: as `find` does, or if there is no such way.
    """
    openings = find(benchmark, name).openings
    kind, colon, path = kind.partition(":")
    by_kind = {o.kind: o for o in reversed(openings)}
    if kind and kind not in by_kind:
        raise unknown(f"way to open {name}", kind, by_kind)
    found = (by_kind[kind] if kind else openings[0])._asdict()
    if colon and ":" not in found["name"]:
        raise UserError(f"{name} as {kind} has no folder of its own; found {path!r}.")
    return found | ({"name": f"{kind}:{path}"} if path else {})


def columns(name: str) -> list[DataSet]:
    """Return the data sets, of all benchmarks, that config.data.name opens."""
    name = known_name(name)
    sets = (s for benchmark in BENCHMARKS.values() for s in benchmark.values())
    return [s for s in sets if name in (o.name for o in s.openings)]


def known_name(name: str) -> str:
    """Return the published form of config.data.name: "fgvc:/x/cub/" is fgvc:CUB_200_2011.

    Version, path and spelling are removed; a name that is not published is returned as it is.
    """
    name = re.sub(r":\d+\.\d+\.\d+$", "", name)
    kind, colon, path = name.partition(":")
    if not colon:
        name = names.opened(name, PUBLISHED)
        return _CONFIGS.get(name, name)
    folder = path.rstrip("/").rpartition("/")[2]
    folder = FOLDERS.get(folder.lower(), folder)
    same = (r for r in PUBLISHED if r.lower() == f"{kind}:{folder}".lower())
    return next(same, name)


def published(name: str) -> Published | None:
    """Return the published facts about the data that config.data.name opens, or None."""
    name = known_name(name)
    if not name.startswith("vtab/"):
        return PUBLISHED.get(name)
    data = BENCHMARKS["vtab"].get(name.removeprefix("vtab/"))
    whole = PUBLISHED[vtab.find(name).data]
    return whole._replace(classes=data.classes)


def parts(name: str, split: str) -> list[tuple[str, int, int]] | None:
    """Return (whole split, first image, end) of each part of a split; None if not published."""
    whole = published(name)
    if whole is None:
        return None
    if name.startswith("vtab/"):
        named = vtab.splits(vtab.find(name), whole.counts["train"])
        split = named.get(split, split)
    try:
        return parse_split(split, whole.counts.__getitem__)
    except (KeyError, UserError):
        return None  # not a published split; opening it gives the better message


def expected(name: str, split: str) -> int | None:
    """Return the published number of images of a split, or None."""
    found = parts(name, split)
    return None if found is None else sum(stop - start for _, start, stop in found)
