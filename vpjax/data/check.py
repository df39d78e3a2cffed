"""Is a data set what it should be? Every split of a config, before hours are spent on it.

    python main.py --mode doctor --config configs/vpt_vtab.py:svhn

Every image is decoded. A *fault* would spoil a result: wrong counts, broken files, labels out of
range, classes that train lacks, pictures in two splits. A *warning* is worth knowing. What is
found is shown, written to doctor.json, and told by the exit status: 0 fine, 2 faults.

Published data sets have some pictures twice, and everybody's results include them: where all counts
are as published, such pairs are a warning. An image that two splits share by their definition, such
as "train" and "train[90%:]", is always a fault.
"""

import itertools
import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64
from ml_collections import ConfigDict

from vpjax.core.errors import UserError
from vpjax.core.files import write_json
from vpjax.core.progress import Progress
from vpjax.core.table import table
from vpjax.data import benchmarks, open_source
from vpjax.data.examine import Examined, examine
from vpjax.data.source import Source

log = logging.getLogger(__name__)

SHOWN = 10  # examples of a finding
PLAIN = ("RGB", "L", "array")  # kinds of images that need no mention
HEADER = ("split", "images", "published", "classes", "images a class", "height x width")
HEADER += ("kinds", "digest")


class Finding(NamedTuple):
    """Something that is not as it should be."""

    level: str  # "fault" or "warning"
    split: str
    what: str  # a short name, the same in every run
    text: str
    count: int = 1
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.level:7}  {self.split}: {self.text}"]
        lines += [f"           {example}" for example in self.examples]
        if self.examples and self.count > len(self.examples):
            lines.append(f"           and {self.count - len(self.examples)} more")
        return "\n".join(lines)


class Split(NamedTuple):
    """A split of the config and what was seen of it."""

    part: str  # "train", "val", "test"
    split: str  # the config's words
    source: Source
    found: Examined
    published: int | None  # images

    @property
    def as_published(self) -> bool:
        return self.published == len(self.source)

    def per_class(self) -> Int64[np.ndarray, " C"]:
        """Returns how many images each class has; labels out of range count nowhere."""
        each = [k for label in self.found.labels for k in classes_of(label)]
        inside = [k for k in each if 0 <= k < self.source.num_classes]
        return np.bincount(np.array(inside, np.int64), minlength=self.source.num_classes)

    def named(self, index: int) -> str:
        """Returns an image's number and, where it has one, its file."""
        records = self.source.records
        try:
            names = getattr(records, "names", None)
            file = names[index] if names else records.__getitems__([int(index)])[0].file
        except UserError:
            file = None
        return f"{index} ({file})" if file else str(index)

    def finding(
        self, level: str, what: str, text: str, count: int = 1, examples: Iterable[str] = ()
    ) -> Finding:
        """Returns a finding; no more of the examples are made than are shown."""
        shown = tuple(itertools.islice(examples, SHOWN))
        return Finding(level, self.part, what, text, count, shown)


def doctor(config: ConfigDict, folder: Path) -> bool:
    """Examines the config's data, logs and writes what it finds; returns whether it has no fault.

    Raises: UserError if `folder` cannot be written.
    """
    data = config.data
    splits, findings = [], []
    for part in ("train", "val", "test"):
        if data[part]:
            try:
                source = open_source(data.name, data[part], data.dir or None, data.classes)
            except UserError as error:
                findings.append(Finding("fault", part, "open", str(error)))
                continue
            # Some classes of a data set are in no published number of images.
            published = None if len(data.classes) else benchmarks.expected(data.name, data[part])
            splits.append(Split(part, data[part], source, look(part, source), published))
    for split in splits:
        findings += check(split, data.name)
    for one, other in itertools.combinations(splits, 2):
        findings += compare(one, other, data.name)
    report(folder, data.name, splits, findings)
    return not any(f.level == "fault" for f in findings)


def look(part: str, source: Source) -> Examined:
    """Examines a split, with progress on the screen."""
    log.info("%-5s  %d images, %s", part, len(source), source.name)
    with Progress(len(source), batch_size=1) as progress:
        return examine(source, os.cpu_count() or 1, progress.update)


def check(split: Split, name: str) -> list[Finding]:
    """Returns what is wrong with one split."""
    source, found, out = split.source, split.found, []
    release = benchmarks.release(name)
    if not len(source):
        out.append(split.finding("fault", "empty", "it has no images"))
    if split.published is not None and not split.as_published:
        text = f"{len(source)} images, {split.published} were published"
        if release.note:
            text += f" ({release.note})"
        out.append(split.finding("fault", "count", text))
    if split.published is not None and release.classes not in (None, source.num_classes):
        text = f"{source.num_classes} classes, {release.classes} were published"
        out.append(split.finding("fault", "classes", text))
    if found.unreadable:
        broken = (f"{split.named(i)}: {why[:200]}" for i, why in found.unreadable.items())
        n = len(found.unreadable)
        out.append(split.finding("fault", "unreadable", f"{n} images cannot be read", n, broken))
    out += check_labels(split, name)
    out += check_twice(split)
    for kind, images in found.kinds.items():
        if kind not in PLAIN:
            text = f"{len(images)} images are {kind}; they are read as upright RGB or grey"
            named = map(split.named, images)
            out.append(split.finding("warning", f"kind {kind}", text, len(images), named))
    return out


def check_labels(split: Split, name: str) -> list[Finding]:
    """Returns labels out of range, and classes without images."""
    source, labels, out = split.source, split.found.labels, []
    last = source.num_classes - 1
    wrong = [i for i, x in enumerate(labels) if any(not 0 <= k <= last for k in classes_of(x))]
    if wrong:
        named = (f"{split.named(i)}: label {labels[i]}" for i in wrong)
        text = f"{len(wrong)} labels are not in 0..{last}"
        out.append(split.finding("fault", "label", text, len(wrong), named))
    missing = [str(source.classes[i]) for i in np.flatnonzero(split.per_class() == 0)]
    if missing and len(source):
        # The 800 images of VTAB-1k are drawn without regard to classes.
        serious = split.part == "train" and not name.startswith(("vtab/", "vtab1k:"))
        text = f"{len(missing)} of {source.num_classes} classes have no image"
        level = "fault" if serious else "warning"
        out.append(split.finding(level, "missing class", text, len(missing), missing))
    return out


def check_twice(split: Split) -> list[Finding]:
    """Returns pictures that one split has twice, with one label or with several."""
    labels, out = split.found.labels, []
    pairs = [(first, copy) for first, *copies in groups(split.found) for copy in copies]
    if same := [(a, b) for a, b in pairs if labels[a] == labels[b]]:
        named = (f"{split.named(a)} and {split.named(b)}" for a, b in same)
        text = f"{len(same)} pictures are there again"
        out.append(split.finding("warning", "duplicate", text, len(same), named))
    if other := [(a, b) for a, b in pairs if labels[a] != labels[b]]:
        named = (
            f"{split.named(a)} and {split.named(b)}: labels {labels[a]} and {labels[b]}"
            for a, b in other
        )
        level = "warning" if split.as_published else "fault"
        text = f"{len(other)} pictures are there again under another label"
        out.append(split.finding(level, "contradiction", text, len(other), named))
    return out


def groups(found: Examined) -> list[list[int]]:
    """Returns the images, in order, of each picture that is there several times."""
    rows = found.readable[np.argsort(found.pixels[found.readable], kind="stable")]
    _, starts = np.unique(found.pixels[rows], return_index=True)
    parts = np.split(rows, starts[1:])
    return sorted(p.tolist() for p in parts if len(p) > 1)


def compare(one: Split, other: Split, name: str) -> list[Finding]:
    """Returns what two splits share, by definition and by their pictures."""
    both = f"{one.part} and {other.part}"
    if shared := overlap(benchmarks.pieces(name, one.split), benchmarks.pieces(name, other.split)):
        text = f"{one.split!r} and {other.split!r} share {shared} images"
        return [Finding("fault", both, "overlap", text, shared)]
    first = {int(one.found.pixels[i]): int(i) for i in reversed(one.found.readable)}
    later = ((int(other.found.pixels[i]), int(i)) for i in other.found.readable)
    twins = [(first[pixels], i) for pixels, i in later if pixels in first]
    if not twins:
        return []
    level = "warning" if one.as_published and other.as_published else "fault"
    text = f"{len(twins)} pictures of {other.part} are also in {one.part}"
    shown = tuple(f"{one.named(a)} is {other.named(b)}" for a, b in twins[:SHOWN])
    return [Finding(level, both, "leak", text, len(twins), shown)]


def overlap(one: Sequence | None, other: Sequence | None) -> int:
    """Returns how many images the parts of two splits share; 0 if that is not known."""
    pairs = itertools.product(one or (), other or ())
    shared = (min(a[2], b[2]) - max(a[1], b[1]) for a, b in pairs if a[0] == b[0])
    return sum(n for n in shared if n > 0)


def classes_of(label: Any) -> tuple[int, ...]:
    """Returns the classes of a label: of one, several, or none that is known."""
    if label is None:
        return ()
    return tuple(label) if isinstance(label, tuple) else (label,)


def report(folder: Path, name: str, splits: Sequence[Split], findings: Sequence[Finding]) -> None:
    """Logs a table and the findings, and writes doctor.json."""
    facts = [describe(s) for s in splits]
    rows = [
        [
            f["part"],
            f"{f['images']:,}",
            "-" if f["published"] is None else f"{f['published']:,}",
            str(f["classes"]),
            "{min} to {max}, median {median:g}".format(**f["per_class"]),
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
    if (release := benchmarks.release(name)) and release.note:
        log.info("note     %s", release.note)
    faults = sum(f.level == "fault" for f in findings)
    path = folder / "doctor.json"
    log.info("%s", f"{faults} faults" if faults else "no fault found")
    content = {"data": name, "faults": faults, "splits": facts}
    content["findings"] = [f._asdict() for f in order]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, json.loads(json.dumps(content, default=int)))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}. Give another --workdir.") from error
    log.info("written   %s", path)


def describe(split: Split) -> dict[str, Any]:
    """Returns the facts of a split."""
    found, counts = split.found, split.per_class()
    sizes = found.sizes[found.readable]
    ends = [(s.min(), s.max()) for s in sizes.T if len(s)]
    return {
        "part": split.part,
        "split": split.split,
        "name": split.source.name,
        "images": len(split.source),
        "published": split.published,
        "classes": split.source.num_classes,
        "per_class": {
            "min": int(counts.min()),
            "median": float(np.median(counts)),
            "max": int(counts.max()),
            "counts": dict(zip(map(str, split.source.classes), counts.tolist(), strict=True)),
        },
        "pixels": " x ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in ends),
        "kinds": {kind: len(images) for kind, images in found.kinds.items()},
        "unreadable": len(found.unreadable),
        "digest": found.digest(),
    }
