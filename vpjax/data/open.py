"""Opens data sets by name: the one module that knows every format.

source = open_source("cifar10", "train[:90%]")
"""

import functools
import os
from collections.abc import Callable, Sequence

from vpjax.core.errors import UserError
from vpjax.data import (
    benchmarks,
    cars,
    cifar,
    digits,
    folder,
    idx,
    inat,
    names,
    prepare,
    tfds,
    vtab,
)
from vpjax.data.holdout import Holdout
from vpjax.data.images import PLAIN, Decoding
from vpjax.data.source import Source
from vpjax.data.subset import select_classes

# Files as the authors of a data set publish them: (path, split, data_dir) -> Source.
ORIGINALS = {"idx": idx.open_idx, "cifar": cifar.open_cifar}
# Called with every source before `open_source` returns it: see `vpjax.data.lock`.
GUARDS: list[Callable[[Source], None]] = []


def open_source(
    name: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    classes: str | Sequence[str | int] = "",
    decoding: Decoding = PLAIN,
    holdout: Holdout | None = None,
) -> Source:
    """Opens a data set by name, preparing it first where that is possible.

    Args:
        name: one of
            "digits/low", "digits/high"    bundled
            "cifar10", "eurosat/rgb:2.0.0" any TFDS data set, with config and version
            "fashion", "DS_LOC" ...        as papers and programs call them: `vpjax.data.names`
            "vtab/<task>"                  of VTAB-1k: train800, val200, train800val200, test
            "inat2017", ... "inat2021"     iNaturalist as JSON and photos in `data_dir`
            "folder:PATH", "csv:FILE" ...  see `vpjax.data.folder`
            "idx:FOLDER", "cifar:FOLDER"   see `vpjax.data.idx` and `vpjax.data.cifar`
        split: TFDS split string, "train", "train[:90%]", "train[:800]+validation[:200]".
        data_dir: the data's folder. For TFDS the default is `TFDS_DATA_DIR`, or
            `~/tensorflow_datasets`.
        classes: the only classes to read, see `vpjax.data.subset`; empty for all.
        decoding: how files become pixels: the background of transparent ones, and the like.
        holdout: makes the splits that the data lack from train; None: all are as stored.

    Raises:
        UserError: for an unknown name or split, or for data that cannot be prepared here.
    """
    name = known_as(name, data_dir)
    if holdout is None or not holdout.share:
        source = _open(name, split, data_dir)
    else:
        whole = functools.partial(_open, name, data_dir=data_dir)
        source = holdout.open(f"{data_dir}:{name}", split_names(name, data_dir), whole, split)
    for guard in GUARDS:
        guard(source)
    source = select_classes(source, classes) if len(classes) else source
    source.decoding = decoding.checked()
    return source


def known_as(name: str, data_dir: str | os.PathLike | None = None) -> str:
    """Return the name that opens a data set which papers or programs call otherwise.

    Args:
        name: such as "fashion" or "DS_LOC", see `vpjax.data.names`; any other is returned as it is.
        data_dir: a data set that is prepared there under this very name is meant.
    """
    known = names.opened(name, benchmarks.PUBLISHED)
    if known == name:
        return name
    try:
        return name if tfds.find(name, data_dir) else known
    except UserError:  # no name of TFDS's
        return known


def split_names(name: str, data_dir: str | os.PathLike | None = None) -> tuple[str, ...]:
    """Returns the names of a data set's whole splits, preparing it first where that is possible.

    Raises:
        UserError: for an unknown name, or one whose splits are made otherwise.
    """
    kind, _, path = name.partition(":")
    if kind in folder.READERS:
        return folder.split_names(kind, path, data_dir)
    if kind in ORIGINALS or kind.partition("/")[0] == "digits":
        return ("train", "test")
    if name.startswith("vtab/") or name in inat.VERSIONS:
        raise UserError(f"{name} has splits of its own; set data.holdout=0 and name them")
    return tuple(tfds.sizes(prepare.prepare(name, data_dir)))


def _open(name, split, data_dir):
    kind, _, path = name.partition(":")
    if kind in folder.READERS:
        return folder.open_listing(kind, path, split, data_dir)
    if kind in ORIGINALS:
        return ORIGINALS[kind](path, split, data_dir)
    if kind.partition("/")[0] == "digits":
        return digits.open_digits(name, split)
    if name.startswith("vtab/"):
        return vtab.open_task(name, split, data_dir)
    if name in inat.VERSIONS:
        return inat.open_json(name, split, data_dir)
    prepared = prepare.prepare(name, data_dir)
    if kind in inat.TFDS:
        return inat.open_tfds(prepared, split)
    source = tfds.read(prepared, split)
    if kind == "cars196":
        source.metadata = tuple(cars.facts(c) for c in source.classes)
    return source
