"""Val and test taken from train, class by class, where a data set has none.

    holdout = Holdout(share=0.15, seed=0)
    open_source("folder:photos", "test", holdout=holdout)    # 15 % of every class

Splits that exist are read as they are. Which image is held out depends on its path and the seed
alone; a class with few images gives one to test, then one to val, and keeps at least one in train.
`Holdout.record` writes what was chosen as splits.csv, which another reads again: so a run that goes
on, or is evaluated, has the same images though the folder has gained some.
"""

import collections
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vpjax.core import escape
from vpjax.core.errors import UserError
from vpjax.core.table import read_rows, write_csv
from vpjax.data.class_folders import synonyms
from vpjax.data.order import few
from vpjax.data.pick import pick
from vpjax.data.records import parse_split
from vpjax.data.source import Source

log = logging.getLogger(__name__)

FILE = "splits.csv"
PARTS = ("test", "val")  # what can be held out, in the order in which classes give images

Open = Callable[[str], Source]
Listed = dict[str, tuple[str, str]]  # {path of an image: (class, split)}


class _Chosen(NamedTuple):
    """Train as it is, what names its images, and which of them each split gets."""

    base: Source
    keys: list[str]
    indices: dict[str, np.ndarray]


class Holdout:
    """Which images of a data set are held out; it opens the data set once.

    Args:
        share: of the training images of every class that each missing split gets, 0 to 0.45.
        seed: of the choice.
        wanted: which of val and test are needed; those that exist are not made.
        recorded: a list that `Holdout.record` wrote; None: there is none yet.

    Raises:
        UserError: for a share out of range.
    """

    def __init__(
        self,
        share: float,
        seed: int = 0,
        wanted: Sequence[str] = PARTS,
        recorded: Path | None = None,
    ):
        if not 0 <= share <= 0.45:
            raise UserError(
                f"data.holdout is {share}; expected the share of the training images that val and "
                "test get each, from 0 (none) to 0.45"
            )
        self.share, self.seed, self.wanted, self.recorded = share, seed, wanted, recorded
        self._opened: dict[str, _Chosen] = {}

    def open(self, key: str, known: Sequence[str], open_whole: Open, split: str) -> Source:
        """Open a split, made or not.

        Args:
            key: of the data set, to open it once.
            known: names of the whole splits that the data set has.
            open_whole: opens a split of the data set as it is.
            split: split string; train, val and test are also found by other usual names.

        Raises:
            UserError: for an unknown split, a list that does not fit the data, or a data set with
                one image a class, which leaves none to hold out.
        """
        names = {part: _own_name(part, known) for part in ("train", *PARTS)}
        listed = read(self.recorded) if self.recorded else None
        missing = self._missing(names, listed)
        if not missing or names["train"] is None:
            return open_whole(_renamed(split, names))
        if key not in self._opened:
            base = open_whole(names["train"])
            self._opened[key] = self._chosen(base, names["train"], missing, listed)
        base, keys, chosen = self._opened[key]

        def count(part: str) -> int:
            found = _usual(part)
            return (
                len(chosen[found]) if found in chosen else len(open_whole(names.get(found) or part))
            )

        pieces = [(_usual(name), a, b) for name, a, b in parse_split(split, count)]
        if not any(part in chosen for part, _, _ in pieces):
            return open_whole(_renamed(split, names))
        others = list(dict.fromkeys(part for part, _, _ in pieces if part not in chosen))
        source, begin = base, {}
        if others:  # they follow train, in one source
            before = len(base)
            for part in others:
                begin[part], before = before, before + count(part)
            source = open_whole("+".join([names["train"], *(names.get(p) or p for p in others)]))
        indices = [
            chosen[part][a:b] if part in chosen else np.arange(a, b) + begin[part]
            for part, a, b in pieces
        ]
        where = base.name.partition("[")[0]
        return pick(source, np.concatenate(indices), f"{where}[{split}]")

    @property
    def made(self) -> tuple[str, ...]:
        """The splits that were made, of the data set opened last."""
        chosen = next(reversed(self._opened.values())).indices if self._opened else {}
        return tuple(part for part in reversed(PARTS) if part in chosen)

    def record(self, folder: Path) -> None:
        """Write splits.csv to the folder of a run, if splits were made."""
        for base, keys, chosen in self._opened.values():
            labels = base.labels().tolist()
            rows = [
                {"path": keys[i], "label": _class(base, labels[i]), "split": part}
                for part, indices in chosen.items()
                for i in indices
            ]
            write_csv(folder / FILE, sorted(rows, key=lambda row: row["path"]))

    def _missing(self, names: Mapping[str, str | None], listed: Listed | None) -> list[str]:
        """Return the splits that are made.

        Raises: UserError if one that was made exists now.
        """
        if listed is None:
            return [p for p in PARTS if p in self.wanted and names[p] is None]
        held = {split for _, split in listed.values()}
        if now := [names[p] for p in PARTS if p in held and names[p] is not None]:
            raise UserError(
                f"{self.recorded} holds images of train out as {few(now)}, and the data set has "
                "this split now. Train in another --workdir, or take the split away again."
            )
        return [p for p in PARTS if p in held]

    def _chosen(
        self, base: Source, train: str, missing: list[str], listed: Listed | None
    ) -> _Chosen:
        """Return the indices of train and of each missing split."""
        keys, labels = _keys(base, train), base.labels()
        if listed is not None:
            parts = self._as_recorded(base, keys, listed)
        else:
            groups = labels if labels.ndim == 1 else np.zeros(len(labels), np.int64)
            parts = assigned(keys, groups.tolist(), missing, self.share, self.seed)
            self._say(base, parts, missing)
        array = np.array(parts, object)
        return _Chosen(base, keys, {p: np.flatnonzero(array == p) for p in ("train", *missing)})

    def _say(self, base: Source, parts: list[str], missing: list[str]) -> None:
        """Name the classes that have too few images for every split."""
        if base.multilabel:
            return
        found = collections.Counter(zip(base.labels().tolist(), parts, strict=True))
        lacking = {
            part: [c for i, c in enumerate(base.classes) if not found[i, part]] for part in missing
        }
        if not base.num_classes or len(lacking[missing[0]]) == base.num_classes:
            raise UserError(
                f"{base.name}: every class has one image, so none can be held out for "
                f"{missing[0]}. Add images; or train without: --config.data.val= "
                "--config.data.test="
            )
        if any(lacking.values()):
            text = "; ".join(f"none in {part}: {few(cs)}" for part, cs in lacking.items() if cs)
            log.warning("warning   classes with too few images for every split: %s", text)

    def _as_recorded(self, base: Source, keys: list[str], listed: Listed) -> list[str]:
        """Return the split of every image by the list; "" of those that it lacks."""
        if gone := [key for key in listed if key not in set(keys)]:
            raise UserError(
                f"{self.recorded} lists {len(gone)} images that {base.name} has not, the first is "
                f"{gone[0]}. Put them back. To evaluate other data, name their split and hold "
                "nothing out: --config.data.holdout=0 --config.data.test=train"
            )
        for key, label in zip(keys, base.labels().tolist(), strict=True):
            if key in listed and listed[key][0] != (now := _class(base, label)):
                raise UserError(
                    f"{self.recorded} lists {key} as {listed[key][0]!r}, now it is {now!r}. Give "
                    "it back its class, or train in another --workdir."
                )
        parts = [listed[key][1] if key in listed else "" for key in keys]
        if new := [key for key in keys if key not in listed]:
            text = "warning   %d images are not in %s and are not read, the first is %s"
            log.warning(text, len(new), self.recorded, new[0])
        return parts


def assigned(
    keys: Sequence[str], groups: Sequence[int], missing: Sequence[str], share: float, seed: int
) -> list[str]:
    """Return the split of every image: "train", or one of those that are missing.

    Args:
        keys: what names an image, such as its path.
        groups: its class.
        missing: the splits to make; where a class is too small for all, the first are made.
        share: of a class that each of them gets, rounded, at least one image.
        seed: of the choice.
    """
    parts = ["train"] * len(keys)
    members: dict[int, list[int]] = collections.defaultdict(list)
    for i, group in enumerate(groups):
        members[group].append(i)
    for found in members.values():
        order = sorted(found, key=lambda i: hashlib.sha256(f"{seed}/{keys[i]}".encode()).digest())
        number, taken = max(1, round(share * len(order))), 0
        for part in missing:
            stop = min(taken + number, len(order) - 1)
            for i in order[taken:stop]:
                parts[i] = part
            taken = stop
    return parts


def read(path: Path) -> Listed:
    """Return {path of an image: (class, split)} from a list that `Holdout.record` wrote.

    Raises: UserError if it is damaged, or has other columns.
    """
    header, rows = read_rows(path)
    if not {"path", "label", "split"} <= set(header):
        raise UserError(f"{path} is no list path,label,split. Restore it from a copy.")
    at = [header.index(name) for name in ("path", "label", "split")]
    found = {}
    for line, row in enumerate(rows, start=2):
        name, label, split = (row[i] for i in at)
        if not name or split not in ("train", *PARTS):
            raise UserError(
                f"{path}, line {line}: {name!r:.80} in {split!r:.80}; expected a path and train, "
                "val or test. Restore it from a copy."
            )
        found[name] = (label, split)
    return found


def _class(source: Source, label: object) -> str:
    if isinstance(label, list):
        return " ".join(str(c) for c, on in zip(source.classes, label, strict=True) if on)
    return str(source.classes[label]) if 0 <= label < source.num_classes else str(label)


def _keys(source: Source, split: str) -> list[str]:
    """Return what names each image: its path, or its place in the split."""
    names = getattr(source.records, "names", None)
    return (
        [escape.controls(name) for name in names]
        if names
        else [f"{split}[{i}]" for i in range(len(source))]
    )


def _own_name(part: str, known: Sequence[str]) -> str | None:
    """Return what a data set calls train, val or test; None if it has none."""
    return part if part in known else next((k for k in known if part in synonyms(k)), None)


def _usual(name: str) -> str:
    """Return "train", "val" or "test" for their other names."""
    return next((part for part in ("train", *PARTS) if part in synonyms(name)), name)


def _renamed(split: str, names: Mapping[str, str | None]) -> str:
    """Return a split string in the data set's own names."""
    parts = []
    for part in split.split("+"):
        name, bracket, rest = part.strip().partition("[")
        parts.append((names.get(_usual(name.strip())) or name) + bracket + rest)
    return "+".join(parts)
