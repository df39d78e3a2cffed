"""Some of a data set's classes, or a few images of each.

Classes are relabelled: their order stays, a label becomes its rank.

    select_classes(source, "lichen")               a named subset of iNaturalist 2021
    select_classes(source, "base")                 the first half of the classes; "new": the rest
    select_classes(source, "Danaus plexippus,47")  names, or ids where the data has them
    select_classes(source, "birds.txt")            one name or id a line, # begins a comment

`find_classes` returns the labels of classes by name or id, `select_labels` takes labels.

    select_shots(source, 16, seed=1)               16 images of each class, drawn by the seed
"""

import difflib
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from vpjax.core.errors import UserError
from vpjax.data.order import few
from vpjax.data.pick import Picked, pick
from vpjax.data.source import Source
from vpjax.data.text import read_text

log = logging.getLogger(__name__)

HALVES = ("base", "new")  # of the classes by label; base has the one more where they are odd
VAL_SHOTS = 4  # the most images of a class that validation gets

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
        classes: "base" or "new", a named subset, a file with one class a line, or names and ids, as
            a sequence or separated by commas. Without ids in the data, an id is a label. A name
            wins over an id.

    Raises:
        UserError: for a class that the data lacks, or a source with several classes an image.
    """
    if source.multilabel:
        raise UserError(f"{source.name} has several classes an image; data.classes cannot be used.")
    keep = half(source, classes) if classes in HALVES else _chosen(source, classes)
    if not keep:
        raise UserError(f"data.classes is {classes!r}, which names no class.")
    return select_labels(source, keep)


def half(source: Source, which: str) -> list[int]:
    """Return the labels of the first half of the classes, rounded up ("base"), or of the rest.

    Raises:
        UserError: if a class has this name, or some classes are not known.
    """
    if which in {str(name).lower() for name in source.classes}:
        raise UserError(
            f"data.classes={which!r} means half of the classes, and {source.name} has a class of "
            "this name. Name the classes in a file, one a line."
        )
    if not source.complete:
        raise UserError(
            f"data.classes={which!r} counts all classes, and the training images of {source.name}, "
            "which name them, are not there. Add them, or name the classes in a file, one a line."
        )
    middle = -(-source.num_classes // 2)
    return [*range(middle)] if which == "base" else [*range(middle, source.num_classes)]


def select_shots(source: Source, shots: int, seed: int) -> Source:
    """Return the source with only some images of each class, in the order they had.

    Which ones depends on the seed, the class's name and the images' paths alone: those of fewer
    shots are among those of more, and other classes change nothing.

    Args:
        source: data set with one class an image.
        shots: images of each class; a class that has fewer keeps all, with a warning.
        seed: of the choice.

    Raises:
        UserError: for a source with several classes an image, or a number below 1.
    """
    if source.multilabel:
        raise UserError(f"{source.name} has several classes an image; data.shots cannot be used.")
    if shots < 1:
        raise UserError(f"data.shots is {shots}; expected images of each class, or 0 for all")
    source.check(source.num_classes)
    labels = source.labels()
    names = getattr(source.records, "names", None) or range(len(source))
    start = {c: f"{seed}/{name}/" for c, name in enumerate(source.classes)}
    rank = lambda i: hashlib.sha256(f"{start[labels[i]]}{names[i]}".encode()).digest()  # noqa: E731
    members = [np.flatnonzero(labels == c).tolist() for c in range(source.num_classes)]
    if short := [str(source.classes[c]) for c, own in enumerate(members) if len(own) < shots]:
        text = "warning   %s has fewer than %d images of %s: all of them are used"
        log.warning(text, source.name, shots, few(short))
    chosen = sorted(i for own in members for i in sorted(own, key=rank)[:shots])
    found = pick(source, np.array(chosen, np.int64), f"{source.name} ({shots} images a class)")
    found.complete, found.drawn_from = source.complete, source
    return found


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


def _chosen(source: Source, classes: str | Sequence[str | int]) -> list[int]:
    """Return the labels that `classes` chooses; an error names the file that it is."""
    try:
        return find_classes(source, _wanted(source, classes))
    except UserError as error:
        file = isinstance(classes, str) and os.path.isfile(os.path.expanduser(classes))
        if not file or classes in str(error):
            raise
        raise UserError(f"{classes}: {error}") from error


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
