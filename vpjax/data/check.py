"""Checks that a data set is what it should be, before hours are spent on it.

    check_data("vtab/svhn", {"train": "train800", "test": "test"}, Path("runs/checked"))

Every image is decoded. A *fault* would spoil a result: wrong counts, broken files, labels out of
range, classes that train lacks, pictures in two splits. A *warning* is worth knowing. Both are
logged and written to data_check.json.

Published data sets have some pictures twice, and everybody's results include them: where all counts
are as published, such pairs are a warning. An image that two splits share by their definition, such
as "train" and "train[90%:]", is always a fault.
"""

import itertools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from vpjax.core.errors import UserError
from vpjax.core.files import write_json
from vpjax.core.progress import Progress
from vpjax.core.table import table
from vpjax.data import benchmarks, images
from vpjax.data.examine import Examined, Label, examine
from vpjax.data.holdout import Holdout
from vpjax.data.open import known_as, open_source
from vpjax.data.source import Source

log = logging.getLogger(__name__)

FILE = "data_check.json"
SHOWN = 10  # examples of a finding
PLAIN = ("RGB", "L", "array")  # kinds of images that are no finding
CLEAR = ("RGBA", "LA", "La", "PA", "RGBa")  # kinds with an alpha channel
HEADER = ("split", "images", "published", "classes", "images a class", "height x width")
HEADER += ("kinds", "digest")


class Finding(NamedTuple):
    """Something that is not as it should be."""

    level: str  # "fault" or "warning"
    split: str  # "train", or "train and test"
    problem: str  # a short name, the same in every run
    text: str
    count: int = 1  # images concerned
    examples: tuple[str, ...] = ()  # all of them; the screen shows the first

    def __str__(self) -> str:
        lines = [f"{self.level:7}  {self.split}: {self.text}"]
        lines += [f"           {example}" for example in self.examples[:SHOWN]]
        if len(self.examples) > SHOWN:
            lines.append(f"           and {len(self.examples) - SHOWN} more, all in {FILE}")
        return "\n".join(lines)


class Split(NamedTuple):
    """An opened split and what its images look like."""

    part: str  # "train", "val", "test"
    split: str  # split string
    source: Source
    examined: Examined
    published: int | None  # images, where that is known

    @property
    def as_published(self) -> bool:
        return self.published == len(self.source)

    def class_counts(self) -> Int64[np.ndarray, " C"]:
        """Return how many images each class has; labels out of range do not count."""
        each = [k for label in self.examined.labels for k in classes_of(label)]
        inside = [k for k in each if 0 <= k < self.source.num_classes]
        return np.bincount(np.array(inside, np.int64), minlength=self.source.num_classes)

    def named(self, index: int) -> str:
        """Return an image's index and, if it has one, its file."""
        records = self.source.records
        try:
            names = getattr(records, "names", None)
            file = names[index] if names else records.__getitems__([int(index)])[0].file
        except UserError:
            file = None
        return f"{index} ({file})" if file else str(index)

    def finding(
        self, level: str, problem: str, text: str, count: int = 1, examples: Iterable[str] = ()
    ) -> Finding:
        """Return a finding about this split."""
        return Finding(level, self.part, problem, text, count, tuple(examples))


def check_data(
    name: str,
    splits: Mapping[str, str],
    folder: Path,
    *,
    data_dir: str | os.PathLike | None = None,
    classes: str | Sequence[str | int] = "",
    decoding: images.Decoding = images.PLAIN,
    holdout: Holdout | None = None,
) -> bool:
    """Checks splits of a data set; logs the findings and writes them to data_check.json.

    Args:
        name: data set, as for `open_source`.
        splits: split strings by part, {"train": "train[:90%]", "val": "", "test": "test"}; empty
            ones are left out.
        folder: where data_check.json goes; made if need be.
        data_dir, classes, decoding: as for `open_source`.

    Returns:
        Whether there is no fault; warnings do not count.

    Raises:
        UserError: if `folder` cannot be written.
    """
    name = known_as(name, data_dir or None)
    opened, findings = [], []
    for part, split in splits.items():
        if not split:
            continue
        try:
            source = open_source(name, split, data_dir or None, classes, decoding, holdout)
        except UserError as error:
            findings.append(Finding("fault", part, "open", str(error)))
            continue
        if holdout is not None and part in holdout.made and not len(source):
            continue  # a warning has named the classes, which are too small
        # Numbers of images are published for all classes together only.
        published = None if len(classes) else benchmarks.expected(name, split)
        opened.append(Split(part, split, source, examine_split(part, source), published))
    for split in opened:
        findings += check_split(split, name)
    for one, other in itertools.combinations(opened, 2):
        findings += compare(one, other, name)
    report(folder, name, opened, findings)
    return not any(f.level == "fault" for f in findings)


def examine_split(part: str, source: Source) -> Examined:
    """Examine a split, with progress on the screen."""
    log.info("%-5s  %d images, %s", part, len(source), source.name)
    with Progress(len(source), batch_size=1, what=f"checking {part}") as progress:
        return examine(source, os.cpu_count() or 1, progress.update)


def check_split(split: Split, name: str) -> list[Finding]:
    """Return the findings about one split."""
    source, examined, out = split.source, split.examined, []
    published = benchmarks.published(name)
    if not len(source):
        out.append(split.finding("fault", "empty", "it has no images"))
    if split.published is not None and not split.as_published:
        text = f"{len(source)} images, {split.published} were published"
        if published.note:
            text += f" ({published.note})"
        out.append(split.finding("fault", "count", text))
    if split.published is not None and published.classes not in (None, source.num_classes):
        text = f"{source.num_classes} classes, {published.classes} were published"
        out.append(split.finding("fault", "classes", text))
    if examined.unreadable:
        broken = (f"{split.named(i)}: {why[:200]}" for i, why in examined.unreadable.items())
        n = len(examined.unreadable)
        out.append(split.finding("fault", "unreadable", f"{n} images cannot be read", n, broken))
    out += check_labels(split, name)
    out += check_blank(split)
    out += check_duplicates(split)
    for kind, found in examined.kinds.items():
        if kind not in PLAIN:
            text = f"{len(found)} images are {kind}; they are read as upright RGB or grey"
            if kind.startswith(CLEAR) or "transparent" in kind:
                text += f", on data.background={source.decoding.background}"
            named = map(split.named, found)
            out.append(split.finding("warning", f"kind {kind}", text, len(found), named))
    if len(depths := {k for k in examined.kinds if " of " in k}) > 1:
        text = f"images use {' and '.join(sorted(depths))}, and each is scaled by its own range; "
        text += "set data.bits to the camera's, such as --config.data.bits=12, to scale all alike"
        out.append(split.finding("warning", "depths", text))
    return out


def check_labels(split: Split, name: str) -> list[Finding]:
    """Return the findings about labels out of range and classes without images."""
    source, labels, out = split.source, split.examined.labels, []
    last = source.num_classes - 1
    wrong = [i for i, x in enumerate(labels) if any(not 0 <= k <= last for k in classes_of(x))]
    if wrong:
        named = (f"{split.named(i)}: label {labels[i]}" for i in wrong)
        text = f"{len(wrong)} labels are not in 0..{last}"
        out.append(split.finding("fault", "label", text, len(wrong), named))
    missing = [str(source.classes[i]) for i in np.flatnonzero(split.class_counts() == 0)]
    if missing and len(source):
        # The 800 images of VTAB-1k were sampled without regard to classes.
        serious = split.part == "train" and not name.startswith(("vtab/", "vtab1k:"))
        text = f"{len(missing)} of {source.num_classes} classes have no image"
        level = "fault" if serious else "warning"
        out.append(split.finding(level, "missing class", text, len(missing), missing))
    return out


def check_blank(split: Split) -> list[Finding]:
    """Return the finding about images of one colour, which show nothing."""
    blank, background = sorted(split.examined.blank), split.source.decoding.background
    if not blank:
        return []
    kind_of = {i: kind for kind, found in split.examined.kinds.items() for i in found}
    clear = [i for i in blank if kind_of[i].startswith(CLEAR) or "transparent" in kind_of[i]]
    text = f"{len(blank)} images are blank: one colour"
    if clear:
        text += (
            f"; {len(clear)} of them are transparent, and may show something on another "
            f"data.background than {background}"
        )
    named = map(split.named, blank)
    return [split.finding("warning", "blank", text, len(blank), named)]


def check_duplicates(split: Split) -> list[Finding]:
    """Return the findings about pictures that occur more than once in a split; not blank ones."""
    labels, out = split.examined.labels, []
    pairs = [(first, copy) for first, *copies in duplicates(split.examined) for copy in copies]
    if same := [(a, b) for a, b in pairs if labels[a] == labels[b]]:
        named = (f"{split.named(a)} and {split.named(b)}" for a, b in same)
        text = f"{len(same)} pictures occur again"
        out.append(split.finding("warning", "duplicate", text, len(same), named))
    if other := [(a, b) for a, b in pairs if labels[a] != labels[b]]:
        named = (
            f"{split.named(a)} and {split.named(b)}: labels {labels[a]} and {labels[b]}"
            for a, b in other
        )
        level = "warning" if split.as_published else "fault"
        text = f"{len(other)} pictures occur again under another label"
        out.append(split.finding(level, "contradiction", text, len(other), named))
    return out


def duplicates(examined: Examined) -> list[list[int]]:
    """Return, for each picture that occurs several times, the indices of its images in order.

    Blank images are no pictures.
    """
    rows = np.setdiff1d(examined.readable, sorted(examined.blank))
    rows = rows[np.argsort(examined.pixels[rows], kind="stable")]
    _, starts = np.unique(examined.pixels[rows], return_index=True)
    parts = np.split(rows, starts[1:])
    return sorted(p.tolist() for p in parts if len(p) > 1)


def compare(one: Split, other: Split, name: str) -> list[Finding]:
    """Return the findings about what two splits share, by definition or by their pictures."""
    both = f"{one.part} and {other.part}"
    if shared := overlap(benchmarks.parts(name, one.split), benchmarks.parts(name, other.split)):
        text = f"{one.split!r} and {other.split!r} share {shared} images"
        return [Finding("fault", both, "overlap", text, shared)]
    first = {int(one.examined.pixels[i]): int(i) for i in reversed(one.examined.readable)}
    later = ((int(other.examined.pixels[i]), int(i)) for i in other.examined.readable)
    blank = other.examined.blank
    twins = [(first[pixels], i) for pixels, i in later if pixels in first and i not in blank]
    if not twins:
        return []
    level = "warning" if one.as_published and other.as_published else "fault"
    text = f"{len(twins)} pictures of {other.part} are also in {one.part}"
    shown = tuple(f"{one.named(a)} is {other.named(b)}" for a, b in twins)
    return [Finding(level, both, "leak", text, len(twins), shown)]


def overlap(one: Sequence | None, other: Sequence | None) -> int:
    """Return how many images the parts of two splits share; 0 if that is not known."""
    pairs = itertools.product(one or (), other or ())
    shared = (min(a[2], b[2]) - max(a[1], b[1]) for a, b in pairs if a[0] == b[0])
    return sum(n for n in shared if n > 0)


def classes_of(label: Label) -> tuple[int, ...]:
    """Return the classes of a label: one, several, or none if the label is unknown."""
    if label is None:
        return ()
    return tuple(label) if isinstance(label, tuple) else (label,)


def report(folder: Path, name: str, splits: Sequence[Split], findings: Sequence[Finding]) -> None:
    """Log a table and the findings, and write data_check.json."""
    facts = [describe(s) for s in splits]
    rows = [
        [
            f["part"],
            f"{f['images']:,}",
            "-" if f["published"] is None else f"{f['published']:,}",
            str(f["classes"]),
            "{min} to {max}, median {median:g}".format(**f["images_per_class"]),
            f["pixels"],
            ", ".join(f"{k} {n}" for k, n in f["kinds"].items()),
            f["digest"][:12],
        ]
        for f in facts
    ]
    log.info("\n%s\n", table(HEADER, rows, "lrrrlll"))
    order = sorted(findings, key=lambda f: f.level)
    for finding in order:
        log.log(logging.WARNING if finding.level == "fault" else logging.INFO, "%s", finding)
    if (published := benchmarks.published(name)) and published.note:
        log.info("note     %s", published.note)
    faults = sum(f.level == "fault" for f in findings)
    path = folder / FILE
    log.info("%s", f"{faults} faults" if faults else "no fault found")
    content = {"data": name, "faults": faults, "splits": facts}
    content["findings"] = [f._asdict() for f in order]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}. Give another --workdir.") from error
    log.info("written   %s", path)


def describe(split: Split) -> dict[str, Any]:
    """Return the facts about a split that data_check.json holds."""
    examined, counts = split.examined, split.class_counts()
    sizes = examined.sizes[examined.readable]
    ranges = [(s.min(), s.max()) for s in sizes.T if len(s)]
    return {
        "part": split.part,
        "split": split.split,
        "name": split.source.name,
        "images": len(split.source),
        "published": split.published,
        "classes": split.source.num_classes,
        "images_per_class": {
            "min": int(counts.min()),
            "median": float(np.median(counts)),
            "max": int(counts.max()),
            "counts": dict(zip(map(str, split.source.classes), counts.tolist(), strict=True)),
        },
        "pixels": " x ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in ranges),
        "kinds": {kind: len(images) for kind, images in examined.kinds.items()},
        "unreadable": len(examined.unreadable),
        "digest": examined.digest(),
    }
