"""MNIST and its kind as published: IDX files, compressed or not.

    open_idx("/usr/share/datasets/fashion-mnist", "train[:90%]", None)

    train-images-idx3-ubyte[.gz]  train-labels-idx1-ubyte[.gz]  t10k-images-...  t10k-labels-...

They lie in the folder, in its `raw`, or in `<name>/raw`, as torchvision leaves them. A file is a
magic number, whose last byte counts dimensions, the dimensions, and bytes. LeCun et al. 1998;
Fashion-MNIST: Xiao et al., arXiv 1708.07747.
"""

import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vpjax.core import unpack
from vpjax.core.errors import UserError, unknown
from vpjax.core.reading import read_bytes
from vpjax.data.arrays import Arrays
from vpjax.data.files import place_of
from vpjax.data.records import select_arrays
from vpjax.data.source import Source

SPLITS = {"train": "train", "test": "t10k"}
# "train-images-idx3-ubyte", "t10k-labels.idx1-ubyte.gz", "emnist-letters-test-images-idx3-ubyte"
FILE = re.compile(r"(?:(.+)-)?(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?", re.I)
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker")
FASHION += ("Bag", "Ankle boot")
# CRC-32 of Fashion-MNIST's training labels, so that it is known in a folder of any name.
FASHION_LABELS = 0x2ED6E46A


def open_idx(path: str, split: str, data_dir: Any = None) -> Source:
    """Open a split of a folder of IDX files: train, test, slices and sums.

    Args:
        path: folder, relative to `data_dir` if that is given.
        split: split string.
        data_dir: folder that `path` is relative to.

    Raises:
        UserError: for a folder without such files or with several sets of them, a damaged file, or
            images and labels of different numbers.
    """
    top = place_of(path, data_dir)
    files = find(top)
    where = f"idx:{_name(top, next(iter(files.values())).parent)}"

    def load(part: str):
        key = "test" if part in ("t10k", "test") else part
        if (key, "images") not in files or (key, "labels") not in files:
            raise unknown(f"split of {where}", part, sorted({k for k, _ in files}))
        images, labels = (read(files[key, kind]) for kind in ("images", "labels"))
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise UserError(
                f"{files[key, 'images']} has shape {images.shape} and {files[key, 'labels'].name} "
                f"{labels.shape}; expected n images H W and n labels. Copy both again."
            )
        return images, labels.astype(np.int64)

    chosen = select_arrays(split, load)
    shapes = {images.shape[1:] for images, _ in chosen}
    if len(shapes) > 1:
        raise UserError(
            f"{where}[{split}] has images of {sorted(shapes)} pixels; expected one size."
        )
    images, labels = (np.concatenate(arrays) for arrays in zip(*chosen, strict=True))
    # Those of train, if they are there, show all classes; its images are not read for them.
    shown = "train" if ("train", "labels") in files else "test"
    known = read(files[shown, "labels"]).astype(np.int64)
    fashion = zlib.crc32(known.astype(np.uint8).tobytes()) == FASHION_LABELS
    classes = FASHION if fashion else [str(i) for i in range(known.max(initial=-1) + 1)]
    records = Arrays(images[..., None], labels)
    source = Source(f"{where}[{split}]", classes, records, (*images.shape[1:], 1))
    source.complete = ("train", "labels") in files
    return source


def find(top: Path) -> dict[tuple[str, str], Path]:
    """Return the IDX files of a folder by split ("train", "test") and kind ("images", "labels").

    Raises: UserError if there are none, or several sets.
    """
    if not top.is_dir():
        raise UserError(f"{top} is no folder. Give the one that holds train-images-idx3-ubyte.gz.")
    places = [top, top / "raw", *sorted(p for p in top.glob("*/raw") if p.is_dir())]
    found: dict[tuple[Path, str], dict[tuple[str, str], Path]] = {}
    for place in dict.fromkeys(p for p in places if p.is_dir()):
        for file in sorted(place.iterdir()):  # "x" before "x.gz": what is unpacked is read
            if match := FILE.fullmatch(file.name):
                part = "train" if match[2].lower() == "train" else "test"
                files = found.setdefault((place, match[1] or ""), {})
                files.setdefault((part, match[3].lower()), file)
    if not found:
        raise UserError(
            f"{top} holds no IDX files, such as train-images-idx3-ubyte or "
            "train-images-idx3-ubyte.gz, nor do its subfolders raw and */raw."
        )
    if len(found) > 1:
        sets = [str(p / n) if n else str(p) for p, n in found]
        raise UserError(
            f"{top} holds several sets of IDX files: {', '.join(sets)}. Give the folder of one, "
            "with one set in it."
        )
    return next(iter(found.values()))


def read(file: Path) -> UInt8[np.ndarray, "..."]:
    """Return the array of an IDX file of bytes, compressed or not.

    Raises: UserError for a file that cannot be read, or is cut short.
    """
    try:
        data = read_bytes(file)
        data = unpack.gunzip(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{file} cannot be read: {error}. Copy or download it again.") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != 8 or not 1 <= data[3] <= 4:
        raise UserError(
            f"{file} is no IDX file of bytes: it begins with {data[:4]!r}, expected 0 0 8 and the "
            "number of dimensions. Copy or download it again."
        )
    begin = 4 + 4 * data[3]
    sizes = data[4:begin].ljust(begin - 4, b"\0")  # where even these are cut short
    shape = tuple(np.frombuffer(sizes, ">u4").tolist())
    if len(data) < begin or len(data) - begin != math.prod(shape):
        raise UserError(
            f"{file} holds {max(0, len(data) - begin)} bytes for shape {shape}, expected "
            f"{math.prod(shape)}: it is damaged or cut short. Copy or download "
            "it again."
        )
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)


def _name(top, place):
    """Return what a set is called: the folder given, or the one above `raw`."""
    folder = place.parent if place.name == "raw" else place
    return folder.resolve().name or top.name
