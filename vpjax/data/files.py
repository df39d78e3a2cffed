"""Image files of a folder as records, and what a reader of lists returns."""

import errno
import logging
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from vpjax.core.errors import UserError
from vpjax.core.reading import read_bytes
from vpjax.data.decoders import extensions
from vpjax.data.records import Piece, Record

log = logging.getLogger(__name__)

# Files that lie beside images and are none, left out without a word.
NOTES = (".txt", ".md", ".json", ".csv", ".xml", ".yaml", ".yml", ".html", ".pdf", ".db", ".ini")
PHOTO = (None, None, 3)  # image_shape of photos: sizes differ, RGB

File = tuple[str, int]  # path relative to the data set's folder, label
Key = str | int  # a class as a list of files calls it


class Entry(NamedTuple):
    """A file of a split, as a list or a folder shows it."""

    file: str  # path relative to the data set's folder
    key: Key
    where: str = ""  # "line 7", or a key of a JSON file, for messages


Listed = list[Entry]


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
            return Record(read_bytes(self.folder / name), int(self.labels[index]), name)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise  # nothing is wrong with the file
            raise UserError(
                f"{self.folder / name} cannot be read: {error.strerror}. It was there when the "
                "data set was opened, or is listed in it; put it back."
            ) from error


def place_of(path: str | os.PathLike, data_dir: str | os.PathLike | None) -> Path:
    """Return where data lie: `path`, relative to `data_dir` if that is given."""
    return Path(data_dir or "").expanduser() / Path(path).expanduser()


def composed(name: str) -> str:
    """Return a name in Unicode's composed form; macOS stores the decomposed one."""
    return unicodedata.normalize("NFC", name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is nobody's data: hidden, or what archives from macOS add."""
    return name.startswith(".") or name == "__MACOSX"


def leads_upwards(folder: Path) -> bool:
    """Whether a folder is a link to one that holds it, which would be walked without end."""
    if not os.path.islink(folder):
        return False
    target = os.path.realpath(folder)
    above = os.path.realpath(os.path.dirname(folder))
    return os.path.commonpath([target, above]) == target


def images_below(folder: Path, deep: bool = True) -> list[str]:
    """Return the image files in a folder and its subfolders, relative to it, with "/".

    Hidden files and folders are left out; links to folders are followed unless they lead upwards.
    Other files are counted in a warning, except notes such as .txt and .json.

    Args:
        folder: where to look.
        deep: whether to look into subfolders.
    """
    found, other = [], []
    for here, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [
            f for f in folders if not is_hidden(f) and not leads_upwards(Path(here, f)) and deep
        ]
        inside = Path(here).relative_to(folder)
        for file in files:
            ending = os.path.splitext(file)[1].lower()
            if is_hidden(file) or ending in NOTES:
                continue
            (found if ending in extensions() else other).append((inside / file).as_posix())
    if other:
        log.warning(
            "%s: %d files are left out, because vpjax reads no %s; the first is %s",
            *(folder, len(other), os.path.splitext(other[0])[1] or "files without an ending"),
            other[0],
        )
    return found


class Finder:
    """Says which files exist, listing each folder once: to stat millions of files is slow.

    A name is also found in the other Unicode form.
    """

    def __init__(self, folder: Path):
        self._folder = str(folder)
        self._names: dict[str, frozenset[str]] = {}

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def find(self, name: str) -> str | None:
        """Return a file's path as it is on the disk, None if there is none."""
        folder, slash, file = name.rpartition("/")
        if slash and not folder:
            folder, slash = "/", ""  # of the disk, not of the list
        if file in self._listed(folder):
            return name
        if name.isascii():
            return None
        # Folders too may be in the other form.
        folder = (self.find(folder) or folder) if folder else folder
        same = (f for f in self._listed(folder) if composed(f) == composed(file))
        found = next(same, None)
        return None if found is None else folder + slash + found

    def nearest(self, name: str) -> str | None:
        """Return the file that differs in case or in its ending alone, None if there is none."""
        folder, slash, file = name.rpartition("/")
        stem = os.path.splitext(file)[0].casefold()
        same = sorted(f for f in self._listed(folder) if os.path.splitext(f)[0].casefold() == stem)
        return folder + slash + same[0] if same else None

    def _listed(self, folder):
        if folder not in self._names:
            try:
                found = frozenset(os.listdir(os.path.join(self._folder, folder)))
            except OSError:
                found = frozenset()
            self._names[folder] = found
        return self._names[folder]
