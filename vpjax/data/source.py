"""A data set as a list of examples that can be read in any order.

    source[7]    {"image": uint8 H W C, "label": int}

A label is zeros and ones, uint8 C, where images have several classes.
A `Source` wraps `Records`, which hold still encoded images with their labels. It adds decoding,
checks, errors that name the data set and the example, and a fingerprint. Which files records come
from is the business of `vpjax.data.open`.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from vpjax.core.errors import UserError
from vpjax.data import images
from vpjax.data.class_names import clean
from vpjax.data.records import Record, Records, label_message

BLOCK = 1000  # records read at once: four times faster an example than one by one


class Source:
    """A random-access data set: one or more splits of it, in a fixed order.

    Args:
        name: data set, version and split, such as "cifar10:3.0.2[train]".
        classes: class names, in the order of the labels.
        records: stored images and labels.
        image_shape: (H, W, C), with None for H and W where images differ in size.
        multilabel: whether an image has any number of classes.
        metadata: facts about every class, for prompts and taxonomy; by default its name, as
            `vpjax.data.class_names.clean` leaves it.

    Attributes:
        decoding: how files become pixels, see `vpjax.data.images`.
        complete: whether `classes` are all of the data set; False: those of the splits that are
            there, as its training images are not.
        drawn_from: the source that these images were drawn from by a seed; None: they are not.
    """

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        records: Records,
        image_shape: tuple[int | None, int | None, int],
        multilabel: bool = False,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ):
        self.name = name
        self.classes = tuple(classes)
        by_name = ({"name": clean(str(c), name)} for c in self.classes)
        self.metadata = tuple(by_name if metadata is None else map(dict, metadata))
        self.image_shape = tuple(image_shape)
        self.multilabel = multilabel
        self.records = records
        self.decoding = images.PLAIN
        self.complete = True
        self.drawn_from: Source | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of a label: () for one class an image, (C,) for several."""
        return (self.num_classes,) if self.multilabel else ()

    def __repr__(self) -> str:
        return f"Source({self.name!r}, {len(self)} examples, {self.num_classes} classes)"

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} examples, no example {index}")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Read and decode several examples, in the order of `indices`.

        Raises: UserError for an image that cannot be read or has another shape than the data set.
        """
        indices = [int(i) for i in indices]
        records = self.records.__getitems__(indices) if indices else []
        return [
            {"image": self._decode(i, record), "label": self._target(i, record)}
            for i, record in zip(indices, records, strict=True)
        ]

    def _target(self, index: int, record: Record) -> int | UInt8[np.ndarray, " C"]:
        """Return a class, or zeros and ones; only the latter is checked here."""
        if not self.multilabel:
            return int(record.label)
        row = np.zeros(self.num_classes, np.uint8)
        for label in record.label:
            if not 0 <= label < self.num_classes:
                raise UserError(label_message(self.name, index, label, self.num_classes))
            row[label] = 1
        return row

    def _decode(self, index: int, record: Record) -> UInt8[np.ndarray, "H W C"]:
        where = f"{self.name}: example {index}" + (f" ({record.file})" if record.file else "")
        image = record.image
        if not isinstance(image, np.ndarray):
            try:
                image = images.decode(image, self.image_shape[2], self.decoding)
            except MemoryError:
                raise
            except images.TooLarge as error:
                raise UserError(f"{where} has {error}") from error
            except Exception as error:  # Pillow raises a dozen kinds on broken files
                raise UserError(
                    f"{where} is not a readable image: {type(error).__name__}: {error}. "
                    "Replace the file or prepare the data set again."
                ) from error
        expected = tuple(
            want or have for want, have in zip(self.image_shape, image.shape, strict=True)
        )
        if image.shape != expected:
            raise UserError(
                f"{where} has shape {image.shape}, but every image of this data set should have "
                f"{self.image_shape}. Prepare the data set again."
            )
        return image

    def labels(self) -> Int64[np.ndarray, " n *C"]:
        """Return the label of every example, n or n C; images are not decoded."""
        return self._labels.copy()

    @functools.cached_property
    def _labels(self):
        if (labels := getattr(self.records, "labels", None)) is not None:
            return labels  # where reading a label would mean reading a photo
        labels = np.empty((len(self), *self.label_shape), np.int64)
        for block in self._blocks():
            for i, record in zip(block, self.records.__getitems__(block), strict=True):
                labels[i] = self._target(i, record)
        return labels

    @property
    def labels_known(self) -> bool:
        """Whether `labels` and `counts` need not read examples."""
        return "_labels" in vars(self) or hasattr(self.records, "labels")

    def counts(self) -> Int64[np.ndarray, " C"]:
        """Return how many images each class has; labels must be in range."""
        labels = self._labels
        return labels.sum(0) if self.multilabel else np.bincount(labels, minlength=self.num_classes)

    def _blocks(self, stop: int | None = None):
        stop = len(self) if stop is None else min(stop, len(self))
        return [range(i, min(i + BLOCK, stop)) for i in range(0, stop, BLOCK)]

    def read_all(self, threads: int) -> UInt8[np.ndarray, "n H W C"]:
        """Decode every image of a fixed-size data set into one array, and caches the labels."""
        array = np.empty((len(self), *self.image_shape), np.uint8)
        labels = np.empty((len(self), *self.label_shape), np.int64)

        def fill(block):
            for i, example in zip(block, self.__getitems__(block), strict=True):
                array[i], labels[i] = example["image"], example["label"]

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, self._blocks()))
        self._labels = labels
        return array

    def check(self, num_classes: int) -> None:
        """Check that there are examples with labels, all of them in 0..num_classes-1.

        Raises: UserError naming the data set, the split and the first example that is wrong.
        """
        if not len(self):
            raise UserError(f"{self.name} has no examples. Choose another split.")
        labels = self._labels
        if self.multilabel:
            if not labels.any():
                raise UserError(
                    f"{self.name}: no example has a label. Choose another split; test splits are "
                    "often published without labels."
                )
            return
        wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
        if len(wrong):
            first = int(wrong[0])
            raise UserError(label_message(self.name, first, int(labels[first]), num_classes))

    @functools.cached_property
    def content(self) -> str:
        """Hex digest of the images and labels, whatever the data set is called and lies.

        Of up to `BLOCK` examples as stored, spread evenly; and of all labels, where they are known
        without reading images.
        """
        n = len(self)
        digest = hashlib.sha256(f"{n}\n{self.decoding}\n".encode())
        if hasattr(self.records, "labels"):
            digest.update(self._labels.tobytes())
        places = np.unique(np.linspace(0, n - 1, min(n, BLOCK)).astype(int)).tolist()
        for start in range(0, len(places), 100):  # photos of a hundred at a time
            for record in self.records.__getitems__(places[start : start + 100]):
                label = sorted(record.label) if self.multilabel else int(record.label)
                digest.update(f"{label}\n".encode())
                digest.update(hashlib.sha256(record.image).digest())
        return digest.hexdigest()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex digest of name, length and the first 1000 examples as stored.

        Where labels are known without reading images, it covers all labels. Of images that a seed
        has drawn it is that of all they were drawn from, so that seeds of an experiment agree.
        """
        if self.drawn_from is not None:
            known = f"{self.name}\n{self.drawn_from.fingerprint}"
            return hashlib.sha256(known.encode()).hexdigest()
        digest = hashlib.sha256(f"{self.name}\n{len(self)}\n".encode())
        if hasattr(self.records, "labels"):
            digest.update(self._labels.tobytes())
        for block in self._blocks(1000):
            for record in self.records.__getitems__(block):
                label = sorted(record.label) if self.multilabel else int(record.label)
                digest.update(f"{label}\n".encode())
                digest.update(hashlib.sha256(record.image).digest())
        return digest.hexdigest()
