"""Data sets as their authors pack them, for those that TFDS lacks or whose archive users have.

    nabirds, cub    images.txt, image_class_labels.txt, train_test_split.txt, classes.txt, images/
    gtsrb           GTSRB/Training/<class>/*.ppm, GTSRB/Final_Test/Images/*.ppm, GT-final_test.csv

NABirds (Van Horn et al. 2015) and CUB-200-2011 (Wah et al. 2011) share one layout. GTSRB (Houben et
al. 2013) has two training sets: `Training`, of the 2011 competition, which torchvision downloads
and SA2VP used; and the larger `Final_Training/Images`, which is read if the other is missing.
"""

import functools
import os
from pathlib import Path

from vpjax.core.errors import UserError
from vpjax.data.files import Entry, Key, Listed, Listing
from vpjax.data.text import count_from_zero, read_rows, read_text

TRUTH = "GT-final_test.csv"


def birds(path: Path) -> Listing:
    """Read the splits train and test of CUB or NABirds.

    A label is the rank of a class id among those of train.

    Raises: UserError for a missing file, or lists that do not name the same images.
    """
    files = _pairs(path / "images.txt")
    labels = path / "image_class_labels.txt"
    ids = _pairs(labels)
    parts = _pairs(path / "train_test_split.txt")
    if not files.keys() == ids.keys() == parts.keys():
        raise UserError(
            f"{path}: images.txt, image_class_labels.txt and train_test_split.txt list "
            f"{len(files)}, {len(ids)} and {len(parts)} images, which are not the same. Unpack the "
            "archive again."
        )
    names = _pairs(path / "classes.txt")

    def load(part: str) -> Listed:
        return [
            Entry(
                files[i], count_from_zero(f"{labels}, image {i}", ids[i]), f"images.txt, image {i}"
            )
            for i in files
            if parts[i] == part
        ]

    used = sorted({int(entry.key) for entry in load("1")})
    classes: dict[Key, str] = {key: names.get(str(key), str(key)) for key in used}
    splits = {"train": functools.partial(load, "1"), "test": functools.partial(load, "0")}
    return Listing(path, splits, classes)


def _pairs(file: Path) -> dict[str, str]:
    """Read lines "key value"; the value may hold blanks."""
    lines = read_text(file).splitlines()
    return dict(line.strip().split(" ", 1) for line in lines if " " in line.strip())


def signs(path: Path) -> Listing:
    """Read the splits of GTSRB: train and, if its table exists, test. Classes are 0 to 42.

    Raises: UserError if there is no folder of training images.
    """
    root = path / "GTSRB" if (path / "GTSRB").is_dir() else path
    images = "Final_Test/Images"
    places = (path, root, root / "Final_Test", root / images)
    table = next((p / TRUTH for p in places if (p / TRUTH).exists()), None)
    test = {} if table is None else {"test": functools.partial(_table, table, images)}
    train = next((p for p in ("Training", "Final_Training/Images") if (root / p).is_dir()), None)
    if train is None and not test:
        raise UserError(f"{root} holds neither Training nor Final_Training. Unpack GTSRB there.")
    if train is None:
        return Listing(root, test)
    folders: dict[int, str] = {}
    for name in sorted(e.name for e in os.scandir(root / train) if e.name.isdecimal()):
        if (other := folders.setdefault(int(name), name)) != name:
            raise UserError(
                f"{root / train} has two folders of class {int(name)}, {other} and {name}. Move "
                "the images of one into the other."
            )

    def training() -> Listed:
        out = []
        for key, name in sorted(folders.items()):
            below = sorted(e.name for e in os.scandir(root / train / name))
            images = (f for f in below if f.lower().endswith(".ppm"))
            out += [Entry(f"{train}/{name}/{f}", key) for f in images]
        return out

    classes: dict[Key, str] = {key: str(key) for key in sorted(folders)}
    return Listing(root, {"train": training, **test}, classes)


def _table(file, folder):
    """Read the classes of the test images: columns Filename and ClassId, between semicolons."""
    (_, heads), *rows = read_rows(file) or [(1, [])]
    if not {"Filename", "ClassId"} <= set(heads):
        raise UserError(
            f"{file} has no columns Filename and ClassId, with semicolons between them; its "
            f"columns: {', '.join(heads)}."
        )
    image, key = heads.index("Filename"), heads.index("ClassId")
    out = []
    for line, cells in rows:
        if len(cells) <= max(image, key):
            raise UserError(f"{file}, line {line}: {len(cells)} cells, expected {len(heads)}.")
        found = count_from_zero(f"{file}, line {line}", cells[key])
        out.append(Entry(f"{folder}/{cells[image]}", found, f"{file.name}, line {line}"))
    return out
