"""Several runs and one table: recipes with `config.study.compare`, such as configs/digits.py.

Each cell is trained with every seed, see `vpjax.studies.cells`. The folder then holds

    comparison.md, .csv, .json   mean and standard deviation over seeds, parameters, seconds
    comparison.png               accuracy against trainable parameters
    comparison_curves.png        accuracy of training and evaluation by epoch
    report.html ...              the page, see `vpjax.report.write`
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vpjax.core import distributed, escape, files, logs
from vpjax.core.errors import UserError
from vpjax.core.table import mean_std, spread, table, write_csv
from vpjax.report.finish import write_report
from vpjax.report.plots.curves import comparison
from vpjax.report.plots.histories import histories, points
from vpjax.report.plots.style import save
from vpjax.runs.history import read_history
from vpjax.runs.scores import NAMES
from vpjax.studies.cells import CellRun, all_runs, train
from vpjax.studies.lines import RunLines, ending

log = logging.getLogger(__name__)

LIGHT = 10.0  # percent of parameters: above, a method is not parameter-efficient


def compare(config: ConfigDict, folder: Path) -> list[dict[str, Any]]:
    """Train every cell of `config.study.compare` with every seed; return and write the rows.

    Rows are as `summary` returns them, the fewest trainable parameters first.

    Raises:
        UserError: if there is no seed, or no cell of a label in `config.study.cells`.
    """
    if not config.study.seeds:
        raise UserError("config.study.seeds is empty; a comparison needs at least one seed")
    planned = list(all_runs(config, folder))
    results: dict[str, list[tuple[CellRun, dict[str, Any]]]] = {}
    seeds = len(config.study.seeds)
    what = f"{len(planned) // seeds} methods, {seeds} seed{'s' * (seeds > 1)} each"
    log.info("runs      %d: %s", len(planned), what)
    lines = RunLines([(run.label, run.folder) for run in planned])
    try:
        for run in planned:
            with lines.one(f"{run.label}, seed {run.seed}") as say:
                result = train(run.config, run.folder)
                say(ending(result))
            results.setdefault(run.label, []).append((run, result))
    except BaseException:  # what is done is not lost
        if results and not distributed.index():
            write(rows_of(results), folder)
            log.info("table     %s, of the runs that are done", folder / "comparison.md")
        raise
    rows = rows_of(results)
    if not distributed.index():
        write(rows, folder)
        draw_histories(config, rows, results, folder)
        with logs.quiet():  # the page is named at the very end, below the table
            write_report(folder)
    return rows


def rows_of(results: Mapping[str, list[tuple[CellRun, dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Return the row of every cell that has results, the fewest trainable parameters first."""
    rows = [summary(label, [result for _, result in found]) for label, found in results.items()]
    return sorted(rows, key=lambda row: row["trainable"])


def draw_histories(
    config: ConfigDict,
    rows: list[dict[str, Any]],
    results: dict[str, list[tuple[CellRun, dict[str, Any]]]],
    folder: Path,
) -> None:
    """Draw comparison_curves.png, if the runs have a history; colours: `config.study.colours`."""
    curves = {}
    for row in rows:
        for run, result in results[row["label"]]:
            history = read_history(run.folder / "metrics.jsonl")
            line = points(history, result["steps_per_epoch"], row["metric"])
            curves.setdefault(run.label, []).append(line)
    if any(len(line.epochs) for seeds in curves.values() for seed in seeds for line in seed):
        split = "test" if all("best" in r for r in rows) else "validation"
        figure = histories(curves, split, config.study.colours, rows[0]["metric"])
        save(figure, folder / "comparison_curves.png")


def summary(label: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of a cell, from the results of its seeds.

    `mean` and `std` (the population's, as in the papers) are of `metric`, in percent. `best` is the
    highest value during training, where the test split was evaluated then.
    """
    metric = results[0]["metric"]
    split = "test" if f"test_{metric}" in results[0] else "val"
    values = [r[f"{split}_{metric}"] for r in results]
    row = {
        "label": label,
        "metric": metric,
        "mean": float(np.mean(values)),
        "std": spread(values),
        "seeds": len(results),
        "trainable": results[0]["trainable"],
        "percent": results[0]["percent"],
        "seconds": float(np.mean([r["seconds"] for r in results])),
        "images": results[0].get(f"{split}_count"),
        "doubts": [f"seed {r['seed']}: {t}" for r in results for t in r.get("loss_faults", ())],
    }
    data = results[0]["data"]
    if split == "test" and data.get("val") == data["test"]:
        row["best"] = float(np.mean([r[f"best_val_{metric}"] for r in results]))
    return row


def best_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row with the highest mean, among methods that train few parameters if any do."""
    light = [row for row in rows if row["percent"] < LIGHT] or rows
    return max(light, key=lambda row: row["mean"])


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text that is also Markdown."""
    name = " or ".join(dict.fromkeys(NAMES[row["metric"]] for row in rows))
    header = ["method", f"{name} (%)", "trainable parameters", "share", "seconds a run"]
    unequal = len({r.get("seeds") for r in rows}) > 1  # as where a comparison was stopped
    if has_best := all("best" in r for r in rows):
        header[1:2] = [f"last test {name} (%)", "best seen (%)"]
    lines = [
        [
            r["label"],
            mean_std(r["mean"], r["std"], 1) + " !" * bool(r.get("doubts")),
            *([f"{r['best']:.1f}"] if has_best else []),
            f"{r['trainable']:,}",
            f"{r['percent']:.1f} %",
            f"{r['seconds']:.1f}",
            *([str(r["seeds"])] if unequal else []),
        ]
        for r in rows
    ]
    header += ["seeds"] * unequal
    doubts = [f"! {r['label']}, {text}" for r in rows for text in r.get("doubts", ())]
    return "\n".join([table(header, lines, "lr"), *(f"\n{text}" for text in doubts)])


def write(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write the rows as Markdown, CSV, JSON and a picture."""
    files.write_text(folder / "comparison.md", escape.no_html(as_table(rows)) + "\n")
    files.write_json(folder / "comparison.json", rows)
    lines = [row | {"doubts": "; ".join(row.get("doubts", ()))} for row in rows]
    write_csv(folder / "comparison.csv", lines)
    save(comparison(rows), folder / "comparison.png")
