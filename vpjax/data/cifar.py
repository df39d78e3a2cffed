"""CIFAR-10 and CIFAR-100 as published: the python batches that torchvision keeps, or the binary.

    open_cifar("data", "train[:90%]", None)

    cifar-10-batches-py/   data_batch_1 ... data_batch_5, test_batch, batches.meta
    cifar-100-python/      train, test, meta
    cifar-10-batches-bin/  data_batch_1.bin ..., test_batch.bin, batches.meta.txt
    cifar-100-binary/      train.bin, test.bin, fine_label_names.txt

The folder itself is given, or the one above it. Python batches are pickles: they are read without
running anything in them. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

import io
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from vpjax.core import numpy_pickle, pickle_check
from vpjax.core.errors import UserError, unknown
from vpjax.core.reading import read_bytes
from vpjax.data.arrays import Arrays
from vpjax.data.files import place_of
from vpjax.data.records import select_arrays
from vpjax.data.source import Source

PIXELS = 3 * 32 * 32
TEN = tuple(f"data_batch_{i}" for i in range(1, 6))


class Layout(NamedTuple):
    """The files of one form of the data."""

    name: str  # "cifar10" or "cifar100"
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str  # names of the classes
    key: bytes  # of the labels in python batches, of the names in their meta; b"": binary
    names: bytes = b""
    before: int = 0  # binary: bytes before an image; the last is the label


LAYOUTS = {
    "cifar-10-batches-py": Layout(
        "cifar10", TEN, ("test_batch",), "batches.meta", b"labels", b"label_names"
    ),
    "cifar-100-python": Layout(
        "cifar100", ("train",), ("test",), "meta", b"fine_labels", b"fine_label_names"
    ),
    "cifar-10-batches-bin": Layout(
        "cifar10",
        tuple(f"{n}.bin" for n in TEN),
        ("test_batch.bin",),
        "batches.meta.txt",
        b"",
        before=1,
    ),
    "cifar-100-binary": Layout(
        "cifar100", ("train.bin",), ("test.bin",), "fine_label_names.txt", b"", before=2
    ),
}


def open_cifar(path: str, split: str, data_dir: Any = None) -> Source:
    """Open a split of a folder of CIFAR: train, test, slices and sums.

    Args:
        path: folder, relative to `data_dir` if that is given.
        split: split string.
        data_dir: folder that `path` is relative to.

    Raises:
        UserError: for a folder without batches or with several forms of them, or a damaged file.
    """
    folder, layout = find(place_of(path, data_dir))
    where = f"cifar:{folder.resolve().name}"
    parts = {"train": layout.train, "test": layout.test}
    classes = _classes(folder / layout.meta, layout)

    def load(part: str):
        if part not in parts:
            raise unknown(f"split of {where}", part, parts)
        found = [_batch(folder / name, layout, len(classes)) for name in parts[part]]
        return tuple(np.concatenate(arrays) for arrays in zip(*found, strict=True))

    chosen = select_arrays(split, load)
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*chosen, strict=True))
    return Source(f"{where}[{split}]", classes, Arrays(pixels, labels), (32, 32, 3))


def find(top: Path) -> tuple[Path, Layout]:
    """Return the folder of the batches and their form.

    Raises: UserError if there are none, or several.
    """
    if not top.is_dir():
        raise UserError(
            f"{top} is no folder. Give cifar-10-batches-py, or the folder that holds it."
        )
    # By its files, as the folder may have been given another name.
    here = [(top, layout) for layout in LAYOUTS.values() if _holds(top, layout)]
    below = ((top / name, layout) for name, layout in LAYOUTS.items())
    found = here or [(f, layout) for f, layout in below if _holds(f, layout)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(folder) for folder, _ in found)
        raise UserError(f"{top} holds several forms of CIFAR: {names}. Give the folder of one.")
    packed = sorted(p.name for p in top.glob("cifar-10*.tar.gz"))
    hint = f" Unpack it: tar -xzf {top / packed[0]} -C {top}" if packed else ""
    raise UserError(f"{top} holds none of {', '.join(LAYOUTS)}.{hint}")


def _holds(folder, layout):
    return (folder / layout.test[0]).is_file() and (folder / layout.meta).is_file()


def _classes(file: Path, layout: Layout) -> list[str]:
    if layout.names:
        names = _unpickled(file).get(layout.names, ())
        names = [n.decode() if isinstance(n, bytes) else str(n) for n in names]
    else:
        names = _read(file).decode(errors="replace").split()
    if not names:
        raise UserError(f"{file} holds no names of classes. Unpack the archive again.")
    return names


def _batch(
    file: Path, layout: Layout, count: int
) -> tuple[UInt8[np.ndarray, "n 32 32 3"], Int64[np.ndarray, " n"]]:
    """Return the images and labels of a file."""
    if layout.key:
        content = _unpickled(file)
        rows, labels = np.asarray(content.get(b"data")), content.get(layout.key)
        good = rows.dtype == np.uint8 and rows.ndim == 2 and rows.shape[1] == PIXELS
        if not good or labels is None or len(labels) != len(rows):
            raise UserError(
                f"{file} does not hold n rows of {PIXELS} bytes and n {layout.key.decode()}. "
                "Unpack the archive again."
            )
        labels = np.asarray(labels, np.int64)
    else:
        data, size = np.frombuffer(_read(file), np.uint8), layout.before + PIXELS
        if len(data) == 0 or len(data) % size:
            raise UserError(
                f"{file} has {len(data)} bytes, expected a multiple of {size}: it is cut short. "
                "Unpack the archive again."
            )
        rows = data.reshape(-1, size)
        labels, rows = rows[:, layout.before - 1].astype(np.int64), rows[:, layout.before :]
    if len(wrong := np.flatnonzero((labels < 0) | (labels >= count))):
        raise UserError(
            f"{file}: image {wrong[0]} has label {labels[wrong[0]]}, and there are {count} classes."
            " Unpack the archive again."
        )
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def _read(file: Path) -> bytes:
    try:
        return read_bytes(file)
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror}. Unpack the archive again."
        ) from error


class _Arrays(pickle.Unpickler):
    """Reads dictionaries, lists and arrays of numpy, and nothing that runs code."""

    def find_class(self, module: str, name: str) -> Any:
        if found := numpy_pickle.allowed(module, name):
            return found
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch needs")


def _unpickled(file: Path) -> dict[bytes, Any]:
    try:
        data = _read(file)
        pickle_check.check(io.BytesIO(data), len(data))
        content = _Arrays(io.BytesIO(data), encoding="bytes").load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle may fail in any way
        raise UserError(
            f"{file} is no python batch of CIFAR: {error}. Unpack the archive again."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__}, expected a dictionary.")
    return {
        key.encode() if isinstance(key, str) else key: value.value
        if isinstance(value, numpy_pickle.Array)
        else value
        for key, value in content.items()
    }
