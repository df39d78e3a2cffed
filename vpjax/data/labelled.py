"""Images with classes, to evaluate a run on that was trained on others: matched by their names.

open_labelled("photos/", ("cat", "dog"))    photos/<class>/..., photos/test/<class>/...
open_labelled("list.csv", ("cat", "dog"))   path,label[,split]
"""

import difflib
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from vpjax.core.errors import UserError, unknown
from vpjax.data.class_folders import class_folder, synonyms
from vpjax.data.files import PHOTO, Files, composed
from vpjax.data.images import PLAIN, Decoding
from vpjax.data.lists import csv_list
from vpjax.data.locate import locate
from vpjax.data.order import few
from vpjax.data.source import Source
from vpjax.data.text import unique


def is_place(data: Any) -> bool:
    """Whether something is the path of a folder or a file that exists."""
    if isinstance(data, os.PathLike):
        return True
    return isinstance(data, str) and os.path.exists(os.path.expanduser(data))


def open_labelled(
    where: str | os.PathLike, classes: Sequence[str], split: str = "", decoding: Decoding = PLAIN
) -> Source:
    """Open labelled image files with the classes of a run, all of which need not occur.

    Args:
        where: a folder with a folder for each class, perhaps below one for each split; or a table
            with the columns path and label.
        classes: of the run.
        split: where there are several; "": the test split. A place without splits needs none.
        decoding: how files become pixels.

    Raises:
        UserError: if there are no images, or one has a class that the run does not have.
    """
    place = Path(where).expanduser()
    if not place.exists():
        raise UserError(f"{place} does not exist. Give a folder that holds a folder per class.")
    listing = class_folder(place) if place.is_dir() else csv_list(place)
    name = _choose(place, listing.splits, split)
    entries = unique(str(place), listing.splits[name]())
    labels = {composed(c): i for i, c in enumerate(classes)}
    if strange := sorted({str(e.key) for e in entries if composed(str(e.key)) not in labels}):
        near = difflib.get_close_matches(strange[0], map(str, classes), n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"{place}: {few(strange)} is no class of the run.{hint} Its classes: {few(classes)}. "
            "Call folders (or labels) as the run calls its classes, and leave out the others."
        )
    if not entries:
        raise UserError(f"{place} holds no images. Expected {place}/<class>/<image>.")
    names = locate(str(place), listing.folder, entries)
    files = [(f, labels[composed(str(e.key))]) for f, e in zip(names, entries, strict=True)]
    title = f"{place}[{name}]" if len(listing.splits) > 1 else str(place)
    source = Source(title, classes, Files(listing.folder, files), PHOTO)
    source.decoding = decoding.checked()
    return source


def without(source: Source, indices: Collection[int]) -> Source:
    """Return a source from `open_labelled` without some of its images.

    Args:
        source: of files.
        indices: of the images to leave out.
    """
    records = source.records
    kept = [(f, int(k)) for f, k in zip(records.names, records.labels, strict=True)]
    kept = [file for i, file in enumerate(kept) if i not in indices]
    shape, facts = source.image_shape, source.metadata
    new = Source(source.name, source.classes, Files(records.folder, kept), shape, metadata=facts)
    new.decoding = source.decoding
    return new


def _choose(place, splits, split):
    """Return the name of the split that is meant."""
    if not splits:
        raise UserError(f"{place} holds no folders of classes. Expected {place}/<class>/<image>.")
    if len(splits) == 1 and split in ("", "test"):
        return next(iter(splits))
    same = [name for name in splits if name in (split, *synonyms(split or "test"))]
    if not same:
        raise unknown(f"split of {place}", split or "test", splits)
    return split if split in same else same[0]
