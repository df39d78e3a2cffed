"""Cases of iNaturalist: samples read from annotation files, and metrics by number of shots."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.golden.comparison import Comparison
from tests.golden.record import NotUnderstood, Record
from vpjax.data import inat, open_source
from vpjax.data.source import Source
from vpjax.train import taxonomy


def compare_json(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Write the files of the case, read them, and yield classes, samples and metadata."""
    with tempfile.TemporaryDirectory() as name:
        root, expected = Path(name), meta["expected"]
        for file, content in meta.whole("json_files").items():
            (root / file).write_text(json.dumps(content))
        for file in meta["existing_files"]:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).touch()
        version = next((k for k, v in inat.VERSIONS.items() if v == meta["version"]), None)
        if version is None:
            raise NotUnderstood(f"version {meta['version']!r}; known: {inat.VERSIONS}")
        for case in ("train", "val", "train_subset", "val_subset"):
            split, _, subset = case.partition("_")
            classes = [str(i) for i in meta["subset_category_ids"]] if subset else ""
            source = open_source(version, split, root, classes)
            recorded = expected[case]
            yield Comparison(f"{case} classes", source.num_classes, recorded["num_classes"], 0.0)
            yield same(f"{case} samples", samples(source), recorded["samples"])
            facts = expected.whole("metadata" + "_subset" * bool(subset))
            ours = [{k: c.get(k) for k in r} for c, r in zip(source.metadata, facts, strict=True)]
            yield same(f"{case} metadata", ours, facts)


def samples(source: Source) -> list[list]:
    """Return [file, label] of every example, in order."""
    records = source.records.__getitems__(range(len(source)))
    return [[record.file, record.label] for record in records]


def same(name: str, ours: list, recorded: list) -> Comparison:
    """Return a comparison of entries, 1 where they are equal."""
    if len(ours) != len(recorded):
        return Comparison(name, np.zeros(len(ours)), np.ones(len(recorded)), 0.0)
    equal = [float(a == b) for a, b in zip(ours, recorded, strict=True)]
    return Comparison(name, np.array(equal), np.ones(len(equal)), 0.0)


def compare_metrics(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield the metrics of an evaluation; accuracies are recorded as shares of 1."""
    atol = float(meta["tolerance"])
    labels, counts = arrays["in/labels"], arrays["in/class_shots"]
    yield Comparison("sizes", arrays["in/logits"].shape, (meta["N"], meta["C"]), 0.0)
    for group, scale in (("out", 1.0), ("out_cosine_range", 0.02)):
        logits = arrays["in/logits"].astype(np.float64)
        found = taxonomy.evaluation_report((scale * logits).argmax(1), labels, [], counts)
        ours = {
            "top1_acc": found["accuracy"] / 100,
            "balanced_acc": found["balanced"] / 100,
            "avg_margin": taxonomy.margin(logits, scale),
        }
        for name in taxonomy.SHOTS:
            ours[f"{name}_shot_acc"] = found[name] / 100
            ours[f"{name}_shot_count"] = found[f"{name}_images"]
            ours[f"num_{name}_shot_classes"] = found[f"{name}_classes"]
        for name, value in ours.items():
            yield Comparison(f"{group} {name}", value, arrays[f"{group}/{name}"], atol)
