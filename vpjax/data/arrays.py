"""Data sets from what a notebook has: arrays of pixels, paths, a folder of photos.

from_arrays(images, labels)      to train and evaluate on
open_images("holiday/")          without labels, to predict
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int64, UInt8

from vpjax.core.errors import UserError
from vpjax.data.files import PHOTO, Files
from vpjax.data.photo_paths import Photo, find_photos
from vpjax.data.records import Record
from vpjax.data.source import Source

ArrayLike = np.ndarray | jax.Array | Sequence[Any]
Paths = str | os.PathLike | Sequence[str | os.PathLike]


def from_arrays(
    images: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
) -> Source:
    """Makes a data set of images and labels in memory.

    Args:
        images: uint8 `B H W C` or, if grey, `B H W`, with values 0 to 255 and C 1 or 3; or a list
            of uint8 arrays `H W C` or `H W`, which may differ in size.
        labels: integers `B`, counted from 0; or zeros and ones `B C`, for images with any number of
            classes.
        classes: names, in the order of the labels. By default the numbers from 0 to the highest
            label (or to C - 1). Give the names of the training set for its validation set, which
            may lack the highest.
        name: the data set's name, in messages and results.

    Raises:
        UserError: for images that are not uint8, wrong shapes, numbers of images and labels that
            differ, or labels out of range.
    """
    pixels = _pixels(images)
    numbers = np.asarray(labels)
    if numbers.dtype.kind not in "biu" or numbers.ndim not in (1, 2):
        raise UserError(
            f"labels are {numbers.dtype} of shape {numbers.shape}; expected integers of shape "
            "(B,), or zeros and ones of shape (B, classes). Class names go into `classes`, and "
            "labels are their positions there."
        )
    if len(numbers) != len(pixels):
        raise UserError(f"there are {len(pixels)} images and {len(numbers)} labels; give as many.")
    numbers = numbers.astype(np.int64)
    several = numbers.ndim == 2
    if classes is None:
        count = numbers.shape[1] if several else int(numbers.max(initial=-1)) + 1
        classes = [str(i) for i in range(count)]
    _check_labels(numbers, len(classes), several)
    return Source(name, classes, Arrays(pixels, numbers), _image_shape(pixels), several)


def open_images(
    where: ArrayLike | Paths, lost: dict[str, str] | None = None, channels: int = 3
) -> Source:
    """Open images without labels, for prediction.

    Args:
        where: arrays as in `from_arrays`; or a path, or several, of images, folders and lists, see
            `vpjax.data.photo_paths`.
        lost: filled with the paths that lead nowhere, and why; None: they are an error.
        channels: 3 to read files as RGB, 1 as grey. Arrays keep the channels they have.

    Returns:
        A source with label 0 of the only class "unknown". `source.records.names` has the path of
        every image, or the position of an array as text.

    Raises:
        UserError: for a path that does not exist, a folder without images, or arrays that
            `from_arrays` would refuse.
    """
    paths = [where] if isinstance(where, str | os.PathLike) else where
    if not len(paths) or not all(isinstance(path, str | os.PathLike) for path in paths):
        pixels = _pixels(where)
        records = Arrays(pixels, np.zeros(len(pixels), np.int64))
        return Source("arrays", ["unknown"], records, _image_shape(pixels))
    found = find_photos(paths)
    if lost is not None:
        lost |= found.lost
    elif found.lost:
        path, why = next(iter(found.lost.items()))
        raise UserError(
            f"{len(found.lost)} of {len(found.lost) + len(found.found)} paths lead to no image, "
            f"the first is {path}: {why}. Give paths of image files, folders or lists."
        )
    return open_photos(found.found, channels)


def open_photos(photos: Sequence[Photo], channels: int = 3) -> Source:
    """Return image files as a source without labels.

    Args:
        photos: the files.
        channels: 3 to read them as RGB, 1 as grey.
    """
    files = Files(Path(), [(photo.path, 0) for photo in photos])
    return Source("images", ["unknown"], files, (None, None, channels))


class Arrays:
    """Images in memory.

    Attributes:
        labels: n, or n C of zeros and ones.
        names: positions, as text.
    """

    def __init__(
        self,
        images: UInt8[np.ndarray, "n H W C"] | Sequence[UInt8[np.ndarray, "H W C"]],
        labels: Int64[np.ndarray, " n *classes"],
    ):
        self.labels = labels
        self.names = [str(i) for i in range(len(images))]
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        return [self._record(int(i)) for i in indices]

    def _record(self, index):
        label = self.labels[index]
        label = tuple(np.flatnonzero(label).tolist()) if label.ndim else int(label)
        return Record(self._images[index], label, self.names[index])


def _pixels(images):
    """Return uint8 B H W C, or a list of H W C."""
    if isinstance(images, list | tuple):
        pixels = [_one(np.asarray(image), i) for i, image in enumerate(images)]
        if {image.shape[2] for image in pixels} == {1, 3}:  # grey becomes RGB among colours
            pixels = [np.repeat(image, 3 // image.shape[2], axis=2) for image in pixels]
        return pixels
    pixels = np.asarray(images)
    _check_type(pixels.dtype, "images")
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        raise UserError(
            f"images have shape {pixels.shape}, which looks like one image in colour; expected "
            "(B, H, W, C). Give images[None]."
        )
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or not all(pixels.shape[1:3]):
        raise UserError(
            f"images have shape {np.shape(images)}; expected (B, H, W, 3), (B, H, W, 1) or "
            "(B, H, W), or a list of arrays of different sizes."
        )
    return np.ascontiguousarray(pixels)


def _one(image, index):
    """Return uint8 H W C."""
    _check_type(image.dtype, f"image {index}")
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3) or not all(image.shape):
        raise UserError(
            f"image {index} has shape {image.shape}; expected (H, W, 3), (H, W, 1) or (H, W)."
        )
    return np.ascontiguousarray(image)


def _check_type(dtype, what):
    if dtype != np.uint8:
        verb = "are" if what == "images" else "is"
        raise UserError(
            f"{what} {verb} {dtype}; expected uint8, 0 to 255: presets normalise. Values from 0 "
            "to 1 are converted by (255 * images).round().astype('uint8')."
        )


def _image_shape(pixels):
    if not isinstance(pixels, list):
        return pixels.shape[1:]
    shapes = {image.shape for image in pixels} or {PHOTO}
    first = next(iter(shapes))
    return first if len(shapes) == 1 else (None, None, first[2])


def _check_labels(labels, num_classes, several):
    if several:
        if labels.shape[1] != num_classes:
            raise UserError(
                f"labels have shape {labels.shape} and there are {num_classes} classes; expected a "
                "column for each class."
            )
        if wrong := sorted(set(np.unique(labels).tolist()) - {0, 1}):
            raise UserError(
                f"labels of several classes hold {wrong[0]}; expected zeros and ones of shape "
                "(B, classes), or integers of shape (B,)."
            )
        return
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        i = int(wrong[0])
        raise UserError(
            f"label {i} is {labels[i]}; labels count from 0, and there are {num_classes} classes."
        )
