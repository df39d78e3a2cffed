"""Some of a data set's classes, relabelled: their order stays, a label becomes its rank.

    select_classes(source, "lichen")               a named subset of iNaturalist 2021
    select_classes(source, "Danaus plexippus,47")  names, or ids where the data has them
    select_classes(source, "birds.txt")            one name or id a line, # begins a comment

`find_classes` returns the labels of classes by name or id, `select_labels` takes labels.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from vpjax.core.errors import UserError
from vpjax.data.pick import Picked
from vpjax.data.source import Source
from vpjax.data.text import read_text

# Category ids of iNaturalist 2021: genera that are hard to tell apart, 1,200-1,650 photos each.
SUBSETS = {
    "lichen": range(5438, 5444),
    "wrasse": (2837, *range(2843, 2847)),
    "wild rye": range(6371, 6376),
    "manzanita": range(7709, 7714),
    "bulrush": range(6297, 6302),
}
SUBSETS_OF = ("inat2021", "i_naturalist2021")
ALIASES = ("name", "common_name", "species")


def select_classes(source: Source, classes: str | Sequence[str | int]) -> Source:
    """Return the source with only these classes.

    Args:
        source: data set with one class an image.
        classes: a named subset, a file with one class a line, or names and ids, as a sequence or
            separated by commas. Without ids in the data, an id is a label. A name wins over an id.

    Raises:
        UserError: for a class that the data lacks, or a source with several classes an image.
    """
    if source.multilabel:
        raise UserError(f"{source.name} has several classes an image; data.classes cannot be used.")
    keep = find_classes(source, _wanted(source, classes))
    if not keep:
        raise UserError(f"data.classes is {classes!r}, which names no class.")
    return select_labels(source, keep)


def select_labels(source: Source, labels: Sequence[int]) -> Source:
    """Return the source with only the classes of these labels, which become 0, 1 ..."""
    name = f"{source.name} ({len(labels)} of {source.num_classes} classes)"
    new = np.full(source.num_classes, -1, np.int64)
    new[list(labels)] = np.arange(len(labels))
    out = Source(
        name,
        [source.classes[i] for i in labels],
        _relabelled(source, new),
        source.image_shape,
        metadata=[source.metadata[i] for i in labels],
    )
    out.decoding, out.complete = source.decoding, source.complete
    return out


def with_classes(
    source: Source, classes: Sequence[str], metadata: Sequence[Mapping[str, Any]]
) -> Source:
    """Return a source that is labelled as classes which were recorded.

    One whose training images are not there may show only some of them. Any other with other classes
    is returned as it is.

    Args:
        source: the data.
        classes: names, in the order of the labels.
        metadata: of each class.
    """
    if tuple(source.classes) == tuple(classes):
        source.metadata = tuple(metadata)
        return source
    if source.complete or not set(source.classes) <= set(classes):
        return source
    rank = {name: i for i, name in enumerate(classes)}
    new = np.array([rank[name] for name in source.classes], np.int64)
    out = Source(
        source.name, classes, _relabelled(source, new), source.image_shape, metadata=metadata
    )
    out.decoding = source.decoding
    return out


def find_classes(source: Source, entries: Sequence[str]) -> list[int]:
    """Return the labels, in order, of the classes with these names (in any case) or ids.

    A name that several classes share, as some common names are, stands for all of them.

    Raises: UserError, with the nearest names, for an entry that is neither.
    """
    names: dict[str, list[int]] = {}
    ids: dict[str, list[int]] = {}
    for i, (name, facts) in enumerate(zip(source.classes, source.metadata, strict=True)):
        for alias in {name.lower(), *(str(facts[k]).lower() for k in ALIASES if k in facts)}:
            names.setdefault(alias, []).append(i)
        ids.setdefault(str(facts.get("id", i)), []).append(i)
    out = set()
    for entry in entries:
        labels = names.get(entry.strip().lower()) or ids.get(entry.strip())
        if not labels:
            near = difflib.get_close_matches(entry.lower(), names, n=3, cutoff=0.5)
            hint = f"the nearest names are {', '.join(map(repr, near))}" if near else "none is near"
            raise UserError(
                f"{source.name} has no class of name or id {entry!r} among its "
                f"{source.num_classes}; {hint}."
            )
        out.update(labels)
    return sorted(out)


def _wanted(source: Source, classes: str | Sequence[str | int]) -> list[str]:
    if not isinstance(classes, str):
        return [str(c) for c in classes]
    named = source.name.partition("[")[0].partition(":")[0] in SUBSETS_OF
    if named and (subset := SUBSETS.get(classes.strip().replace("_", " "))):
        return [str(i) for i in subset]
    if os.path.isfile(path := os.path.expanduser(classes)):
        text = read_text(Path(path))
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        return [line for line in lines if line]
    return [part.strip() for part in classes.split(",") if part.strip()]


def _relabelled(source: Source, new: Int64[np.ndarray, " C"]) -> Picked:
    """Return the records of some classes: `new` has a label for each old one, or -1."""
    old = source.labels()
    known = (old >= 0) & (old < source.num_classes)
    indices = np.flatnonzero(known & (new[np.where(known, old, 0)] >= 0))
    return Picked(source.records, indices, new[old[indices]])
