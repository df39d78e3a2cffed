"""Several runs and one table.

A recipe lists its runs as {label: changes to the config}; each is trained with every seed in a
folder of its own, <workdir>/<label>/seed0 ..., and a run that is finished is not run again.

    comparison.md, .csv, .json   mean and standard deviation of accuracy, parameters, seconds
    comparison.png               accuracy against trainable parameters
    comparison_curves.png        accuracy of training and evaluation by epoch
"""

import csv
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vpjax.core import distributed
from vpjax.core.errors import UserError, unknown
from vpjax.core.files import write_json
from vpjax.core.table import table
from vpjax.runs import config as configs
from vpjax.runs.defaults import single_run
from vpjax.runs.fit import fit
from vpjax.runs.history import read_history

log = logging.getLogger(__name__)


def compare(config: ConfigDict, folder: Path) -> list[dict[str, Any]]:
    """Trains every run of `config.study.compare` with every seed; returns and writes the table's rows.

    `config.study.colours` are those of labels in comparison_curves.png.

    Raises: UserError if there is no seed, or no run of a label in `config.study.cells`.
    """
    if not config.study.seeds:
        raise UserError("config.study.seeds is empty; a comparison needs at least one seed")
    planned = list(runs(config))
    results = {}
    for number, (label, seed, single) in enumerate(planned, start=1):
        log.info("\n%s, seed %d (run %d of %d)", label, seed, number, len(planned))
        results.setdefault(label, []).append(fit(single, folder / label / f"seed{seed}"))
    rows = [summary(label, found) for label, found in results.items()]
    rows.sort(key=lambda row: row["trainable"])
    if not distributed.index():
        write(rows, folder)
        draw_histories(config, rows, results, folder)
    return rows


def draw_histories(
    config: ConfigDict, rows: list[dict[str, Any]], results: dict[str, list], folder: Path
) -> None:
    """Draws comparison_curves.png, if the runs have a history."""
    # Here: matplotlib is no part of what a run waits for before its first step.
    from vpjax.report.plots.histories import histories, points

    curves = {}
    for label in (row["label"] for row in rows):
        for seed, result in zip(config.study.seeds, results[label], strict=True):
            history = read_history(folder / label / f"seed{seed}" / "metrics.jsonl")
            curves.setdefault(label, []).append(points(history, result["steps_per_epoch"]))
    if any(len(line.epochs) for seeds in curves.values() for seed in seeds for line in seed):
        along = "test" if all("best" in r for r in rows) else "validation"
        histories(curves, along, config.study.colours).savefig(
            folder / "comparison_curves.png", dpi=150
        )


def labels(config: ConfigDict) -> tuple[str, ...]:
    """Returns which of `config.study.compare` to run, in order: `config.study.cells`, or all by name.

    Raises: UserError if there is no such cell.
    """
    for label in config.study.cells:
        if label not in config.study.compare:
            raise unknown("cell", label, config.study.compare)
    return tuple(config.study.cells or config.study.compare)


def runs(config: ConfigDict) -> Iterator[tuple[str, int, ConfigDict]]:
    """Yields label, seed and the config of each single run."""
    for label in labels(config):
        for seed in config.study.seeds:
            single = configs.merged(single_run(config), config.study.compare[label])
            single.seed = seed
            yield label, seed, single


def summary(label: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns one row: a method over its seeds. `std` is the population's, as in the papers.

    `best` is the highest accuracy on the way, where it is the test split that was evaluated there.
    """
    split = "test" if "test_accuracy" in results[0] else "val"
    accuracy = [r[f"{split}_accuracy"] for r in results]
    row = {
        "label": label,
        "accuracy": float(np.mean(accuracy)),
        "std": float(np.std(accuracy)),
        "seeds": len(results),
        "trainable": results[0]["trainable"],
        "percent": results[0]["percent"],
        "seconds": float(np.mean([r["seconds"] for r in results])),
        "images": results[0][f"{split}_count"],
    }
    data = results[0]["data"]
    if split == "test" and data.get("val") == data["test"]:
        row["best"] = float(np.mean([r["best_val_accuracy"] for r in results]))
    return row


def as_table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as text that is also Markdown."""
    header = ["method", "accuracy (%)", "trainable parameters", "share", "seconds a run"]
    if seen := all("best" in r for r in rows):
        header[1:2] = ["last test accuracy (%)", "best seen (%)"]
    lines = [
        [
            r["label"],
            f"{r['accuracy']:.1f} ± {r['std']:.1f}",
            *([f"{r['best']:.1f}"] if seen else []),
            f"{r['trainable']:,}",
            f"{r['percent']:.1f} %",
            f"{r['seconds']:.1f}",
        ]
        for r in rows
    ]
    return table(header, lines, "lrrrr")


def write(rows: list[dict[str, Any]], folder: Path) -> None:
    """Writes the table as Markdown, CSV, JSON and a picture."""
    from vpjax.report.plots.curves import comparison

    (folder / "comparison.md").write_text(as_table(rows) + "\n")
    write_json(folder / "comparison.json", rows)
    with open(folder / "comparison.csv", "w", newline="") as file:
        keys = dict.fromkeys(key for row in rows for key in row)
        writer = csv.DictWriter(file, list(keys), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    comparison(rows).savefig(folder / "comparison.png", dpi=150)
