"""Image files of a folder as records, and what a reader of lists returns."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from vpjax.core.errors import UserError
from vpjax.data.records import Piece, Record

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
PHOTO = (None, None, 3)  # image_shape of photos: sizes differ, RGB

File = tuple[str, int]  # path relative to the data set's folder, label
Key = str | int  # a class as a list of files calls it
Listed = list[tuple[str, Key]]


class Listing(NamedTuple):
    """Files and classes of all splits, as the reader of a format returns them."""

    folder: Path  # what files are relative to, or a folder above that
    splits: Mapping[str, Callable[[], Listed]]
    classes: Mapping[Key, str] | None = None  # names by key, in label order; None: those of train


class Files:
    """Encoded images in files, read when they are asked for.

    Attributes:
        labels: of every file, known without reading any.
        names: paths relative to `folder`, with "/".
    """

    def __init__(self, folder: Path, files: Sequence[File]):
        self.folder = folder
        self.names = [name for name, _ in files]
        self.labels: Int64[np.ndarray, " n"] = np.array([label for _, label in files], np.int64)

    @property
    def pieces(self) -> list[Piece]:
        return [Piece(os.path.join(self.folder, name), 0, 1) for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        """Raise: UserError for a file that has gone or may not be read."""
        return [self._record(int(i)) for i in indices]

    def _record(self, index):
        name = self.names[index]
        try:
            return Record((self.folder / name).read_bytes(), int(self.labels[index]), name)
        except OSError as error:
            raise UserError(
                f"{self.folder / name} cannot be read: {error.strerror}. It was there when the "
                "data set was opened, or is listed in it; put it back."
            ) from error


def images_below(folder: Path) -> list[str]:
    """Return the image files in a folder and its subfolders, relative to it, with "/".

    Hidden files and folders are left out; links to folders are followed.
    """
    found = []
    for here, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [f for f in folders if f[0] != "."]
        inside = Path(here).relative_to(folder)
        images = (f for f in files if f[0] != "." and f.lower().endswith(EXTENSIONS))
        found += [(inside / file).as_posix() for file in images]
    return found


class Finder:
    """Says which files exist, listing each folder once: to stat millions of files is slow."""

    def __init__(self, folder: Path):
        self._folder = str(folder)
        self._names: dict[str, frozenset[str]] = {}

    def __contains__(self, name: str) -> bool:
        folder, _, file = name.rpartition("/")
        if folder not in self._names:
            try:
                found = frozenset(os.listdir(os.path.join(self._folder, folder)))
            except OSError:
                found = frozenset()
            self._names[folder] = found
        return file in self._names[folder]
