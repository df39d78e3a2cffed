"""Several runs and one table.

A recipe lists its runs as {label: changes to the config}; each is trained with every seed in a
folder of its own, <workdir>/<label>/seed0 ..., and a run that is finished is not run again.

    comparison.md, .csv, .json   mean and standard deviation of accuracy, parameters, seconds
    comparison.png               accuracy against trainable parameters
"""

import csv
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vpjax import config as configs
from vpjax.draw.curves import comparison
from vpjax.errors import UserError
from vpjax.train.fit import fit
from vpjax.train.log import table
from vpjax.train.workdir import write_json

log = logging.getLogger(__name__)


def compare(config: ConfigDict, folder: Path) -> list[dict[str, Any]]:
    """Trains every run of `config.compare` with every seed; returns and writes the table's rows.

    Raises: UserError if there is no seed.
    """
    if not config.seeds:
        raise UserError("config.seeds is empty; a comparison needs at least one seed")
    planned = list(runs(config))
    results = {}
    for number, (label, seed, single) in enumerate(planned, start=1):
        log.info("\n%s, seed %d (run %d of %d)", label, seed, number, len(planned))
        result = fit(single, folder / label / f"seed{seed}")
        results.setdefault(label, []).append(result)
    rows = [summary(label, found) for label, found in results.items()]
    rows.sort(key=lambda row: row["trainable"])
    write(rows, folder)
    return rows


def runs(config: ConfigDict) -> Iterator[tuple[str, int, ConfigDict]]:
    """Yields label, seed and the config of each single run."""
    for label, changes in config.compare.items():
        for seed in config.seeds:
            single = configs.merged(config, changes)
            single.seed, single.seeds, single.compare = seed, (seed,), ConfigDict()
            yield label, seed, single


def summary(label: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns one row: a method over its seeds. `std` is the population's, as in the papers."""
    split = "test" if "test_accuracy" in results[0] else "val"
    accuracy = [r[f"{split}_accuracy"] for r in results]
    return {
        "label": label,
        "accuracy": float(np.mean(accuracy)),
        "std": float(np.std(accuracy)),
        "seeds": len(results),
        "trainable": results[0]["trainable"],
        "percent": results[0]["percent"],
        "seconds": float(np.mean([r["seconds"] for r in results])),
        "images": results[0][f"{split}_count"],
    }


def as_table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as text that is also Markdown."""
    header = ["method", "accuracy (%)", "trainable parameters", "share", "seconds a run"]
    lines = [
        [
            r["label"],
            f"{r['accuracy']:.1f} ± {r['std']:.1f}",
            f"{r['trainable']:,}",
            f"{r['percent']:.1f} %",
            f"{r['seconds']:.1f}",
        ]
        for r in rows
    ]
    return table(header, lines, "lrrrr")


def write(rows: list[dict[str, Any]], folder: Path) -> None:
    """Writes the table as Markdown, CSV, JSON and a picture."""
    (folder / "comparison.md").write_text(as_table(rows) + "\n")
    write_json(folder / "comparison.json", rows)
    with open(folder / "comparison.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    comparison(rows).savefig(folder / "comparison.png", dpi=150)
