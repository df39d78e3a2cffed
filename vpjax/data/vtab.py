"""VTAB-1k: 19 tasks of 1000 training images, as VPT's code defines them.

    open_task("vtab/svhn", "train800")      train800, val200, train800val200, test

train800 is the first 800 images of TFDS's train split. Zhai et al. 2019, arXiv 1910.04867; splits
and derived labels as in VPT (arXiv 2203.12119). Any other split string is TFDS's own.

Derived labels are functions below, of an example as TFDS stores it, for the `label` of
`vpjax.data.tfds.read`. A distance becomes a class by thresholds: the class is that of the last
threshold strictly below it, in float32.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vpjax.core.errors import unknown
from vpjax.data import images, prepare, tfds
from vpjax.data.records import Piece, Record, Records
from vpjax.data.source import Source

CLEVR_DISTANCES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
KITTI_DISTANCES = (-100.0, 8.0, 20.0, 999.0)  # metres; the last class is "no vehicle"
NO_VEHICLE = 1000.0
VEHICLES = 3  # types below: car, van, truck

Example = Mapping[str, Any]


def clevr_count(example: Example) -> int:
    """Return the number of objects, 3 to 10, as class 0 to 7."""
    return len(example["objects"]["pixel_coords"]) - 3


def clevr_distance(example: Example) -> int:
    """Return class 0 to 5 of the distance of the object nearest to the camera."""
    depths = np.asarray(example["objects"]["pixel_coords"], np.float32).reshape(-1, 3)[:, 2]
    return bin_of(float(depths.min(initial=np.inf)), CLEVR_DISTANCES)


def kitti_distance(example: Example) -> int:
    """Return class 0 to 2 of the distance of the nearest car, van or truck; 3 without any."""
    objects = example["objects"]
    depths = np.asarray(objects["location"], np.float32).reshape(-1, 3)[:, 2]
    vehicles = np.asarray(objects["type"]) < VEHICLES
    return bin_of(float(depths[vehicles].min(initial=NO_VEHICLE)), KITTI_DISTANCES)


def dsprites_location(example: Example) -> int:
    """Return the horizontal position, 0 to 31, in 16 classes."""
    return int(example["label_x_position"]) // 2


def dsprites_orientation(example: Example) -> int:
    """Return the orientation, 0 to 39, in 16 classes."""
    return int(int(example["label_orientation"]) // 2.5)


def bin_of(value: float, thresholds: Sequence[float]) -> int:
    """Return the index of the last threshold strictly below `value`; -1 if there is none."""
    return int((np.asarray(thresholds, np.float32) < np.float32(value)).sum()) - 1


class Task(NamedTuple):
    """One task: where its images are, and how they are labelled."""

    group: str
    data: str  # TFDS name
    val: str | float  # where val200 begins: "validation[:200]", or after this share of train
    test: str = "test"
    label: str | Callable[[Example], int] = "label"
    classes: int | None = None  # of a derived label
    binary: bool = False  # pixels are 0 and 1


_CLEVR = ("structured", "clevr", 0.9, "validation")
_DSPRITES = ("structured", "dsprites", 0.8, "train[663552:]")
_NORB = ("structured", "smallnorb", "test[:200]", "test[50%:]")
TASKS = {
    "cifar100": Task("natural", "cifar100", 0.9),
    "caltech101": Task("natural", "caltech101", 0.9),
    "dtd": Task("natural", "dtd", "validation[:200]"),
    "flowers102": Task("natural", "oxford_flowers102", "validation[:200]"),
    "pets": Task("natural", "oxford_iiit_pet", 0.8),
    "svhn": Task("natural", "svhn_cropped", 0.9),
    "sun397": Task("natural", "sun397/tfds", "validation[:200]"),
    "patch_camelyon": Task("specialised", "patch_camelyon", "validation[:200]"),
    "eurosat": Task("specialised", "eurosat/rgb", 0.6, "train[21600:]"),
    "resisc45": Task("specialised", "resisc45", 0.6, "train[25200:]"),
    "retinopathy": Task(
        "specialised", "diabetic_retinopathy_detection/btgraham-300", "validation[:200]"
    ),
    "clevr_count": Task(*_CLEVR, clevr_count, 8),
    "clevr_distance": Task(*_CLEVR, clevr_distance, 6),
    "dmlab": Task("structured", "dmlab", "validation[:200]"),
    "kitti_distance": Task("structured", "kitti", "validation[:200]", "test", kitti_distance, 4),
    "dsprites_location": Task(*_DSPRITES, dsprites_location, 16, binary=True),
    "dsprites_orientation": Task(*_DSPRITES, dsprites_orientation, 16, binary=True),
    "smallnorb_azimuth": Task(*_NORB, "label_azimuth"),
    "smallnorb_elevation": Task(*_NORB, "label_elevation"),
}


def find(name: str) -> Task:
    """Return the task "vtab/<task>".

    Raises: UserError if there is none of that name.
    """
    task = TASKS.get(name.partition("/")[2])
    if task is None:
        raise unknown("task of VTAB-1k", name, [f"vtab/{t}" for t in TASKS])
    return task


def splits(task: Task, train: int) -> dict[str, str]:
    """Return the benchmark's splits as TFDS split strings.

    Args:
        task: the task.
        train: number of images in TFDS's train split.
    """
    first, val = "train[:800]", task.val
    if not isinstance(val, str):
        start = int(train * val)
        val = f"train[{start}:{start + 200}]"
    both = f"{first}+{val}"
    return {"train800": first, "val200": val, "train800val200": both, "test": task.test}


def open_task(name: str, split: str, data_dir: Any = None) -> Source:
    """Open a split of "vtab/<task>".

    Raises: UserError for an unknown task or split, or for data that cannot be prepared here.
    """
    task = find(name)
    folder = prepare.prepare(task.data, data_dir)
    split = splits(task, tfds.sizes(folder).get("train", 0)).get(split, split)
    classes = task.classes and [str(i) for i in range(task.classes)]
    source = tfds.read(folder, split, label=task.label, classes=classes)
    if task.binary:
        records = _Binary(source.records)
        source = Source(source.name, source.classes, records, source.image_shape)
    return source


class _Binary:
    """Records whose pixels 0 and 1 become 0 and 255."""

    def __init__(self, records: Records):
        self._records = records

    @property
    def pieces(self) -> Sequence[Piece]:
        return getattr(self._records, "pieces", ())

    def __len__(self) -> int:
        return len(self._records)

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        found = self._records.__getitems__(indices)
        return [r._replace(image=255 * images.decode(r.image, 1)) for r in found]
