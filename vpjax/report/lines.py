"""Tables as lines for a program, all digits kept.

report.csv        a line for each method on each data set, and for each mean
report_runs.csv   a line a run, whatever became of it
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vpjax.report import sources
from vpjax.report.cells import Cell, Table
from vpjax.report.means import means
from vpjax.report.runs import Run

CELL = ("table", "method", "kind", "name", "accuracy", "std", "seeds", "seed_list", "not_finished")
CELL += ("trainable", "percent", "published", "tolerance", "verdict", "published_source", "split")
CELL += ("metric", *sources.KINDS, "data_digest", "weights_sha256", "have", "of")
RUN = ("folder", "method", "class", "data", "seed", "status", "reason", "split", "accuracy")
RUN += ("trainable", "total", "preset", "data_digest", "weights_sha256", "began", "ended")
RUN += ("seconds", "jax", "python", "devices")


def lines(tables: Iterable[Table]) -> list[dict[str, Any]]:
    """Returns a row for each number of the tables."""
    out = []
    for table in tables:
        for method in table.methods:
            for name, cell in table.row(method).items():
                out.append({"table": table.title, "method": method} | _cell(name, cell))
            for mean in means(table, method):
                row = {"table": table.title, "method": method, "kind": "mean", "name": mean.name}
                row |= {"accuracy": mean.value, "std": mean.std, "published": mean.published}
                out.append(row | {"have": mean.have, "of": mean.of})
    return out


def _cell(name: str, cell: Cell) -> dict[str, Any]:
    run = cell.runs[0]
    return {
        "kind": "data set",
        "name": name,
        "accuracy": cell.mean,
        "std": cell.std,
        "seeds": len(cell.runs),
        "seed_list": " ".join(map(str, cell.scores)),
        "not_finished": len(cell.failed),
        "trainable": cell.trainable,
        "percent": cell.percent,
        "published": cell.published,
        "tolerance": cell.tolerance,
        "verdict": cell.verdict,
        "published_source": run.expected.get("source", ""),
        "split": run.split,
        "metric": cell.metric,
        **sources.facts(run),
        "data_digest": run.result["data_fingerprint"],
        "weights_sha256": run.result["weights"].get("sha256"),
    }


def run_lines(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Returns a row for each run."""
    out = []
    for run in runs:
        row = {"folder": run.name, "method": run.label, "class": run.method, "seed": run.seed}
        row |= {"data": run.config.data.name, "status": run.status, "reason": run.reason}
        row |= {"began": run.began, "ended": run.ended}
        if run.finished:
            result, versions = run.result, run.result.get("versions", {})
            row |= {k: result.get(k) for k in ("trainable", "total", "preset", "seconds")}
            row |= {"split": run.split, "accuracy": run.score()}
            row |= {"data_digest": result["data_fingerprint"]}
            row |= {"weights_sha256": result["weights"].get("sha256")}
            row |= {"jax": versions.get("jax"), "python": versions.get("python")}
            row["devices"] = " ".join(dict.fromkeys(result.get("devices", ())))
        out.append(row)
    return out


def write(rows: Iterable[dict[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Writes rows as CSV; what a row has not is empty."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
