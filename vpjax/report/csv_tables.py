"""Tables for a program, all digits kept.

report.csv        a line for each method on each data set, and for each mean
report_runs.csv   a line for each run, finished or not
"""

from collections.abc import Iterable
from typing import Any

from vpjax.report import comparability
from vpjax.report.means import means
from vpjax.report.run_folders import Run
from vpjax.report.tables import Cell, Table

CELL_COLUMNS = ("table", "method", "kind", "name", "metric", "mean", "std", "seeds", "seed_list")
CELL_COLUMNS += ("not_finished", "trainable", "percent", "published", "tolerance", "verdict")
CELL_COLUMNS += ("published_source", "split", *comparability.KINDS, "data_digest")
CELL_COLUMNS += ("weights_sha256", "have", "of")
RUN_COLUMNS = ("folder", "method", "class", "data", "seed", "status", "reason", "split", "metric")
RUN_COLUMNS += ("value", "trainable", "total", "preset", "data_digest", "weights_sha256")
RUN_COLUMNS += ("began", "ended", "seconds", "jax", "python", "devices")


def number_rows(tables: Iterable[Table]) -> list[dict[str, Any]]:
    """Return a row for each number of the tables."""
    out = []
    for table in tables:
        for method in table.methods:
            for name, cell in table.row(method).items():
                out.append({"table": table.title, "method": method} | _cell(name, cell))
            for mean in means(table, method):
                row = {"table": table.title, "method": method, "kind": "mean", "name": mean.name}
                row |= {"mean": mean.value, "std": mean.std, "published": mean.published}
                out.append(row | {"have": mean.have, "of": mean.of})
    return out


def _cell(name: str, cell: Cell) -> dict[str, Any]:
    run = cell.runs[0]
    return {
        "kind": "data set",
        "name": name,
        "metric": cell.metric,
        "mean": cell.mean,
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
        **comparability.column_facts(run),
        "data_digest": run.result["data_fingerprint"],
        "weights_sha256": run.result["weights"].get("sha256"),
    }


def run_rows(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Return a row for each run."""
    out = []
    for run in runs:
        row = {"folder": run.name, "method": run.label, "class": run.method, "seed": run.seed}
        row |= {"data": run.config.data.name, "status": run.status, "reason": run.reason}
        row |= {"began": run.began, "ended": run.ended}
        if run.finished:
            result, versions = run.result, run.result.get("versions", {})
            row |= {k: result.get(k) for k in ("trainable", "total", "preset", "seconds")}
            row |= {"split": run.split, "metric": run.metric, "value": run.score()}
            row |= {"data_digest": result["data_fingerprint"]}
            row |= {"weights_sha256": result["weights"].get("sha256")}
            row |= {"jax": versions.get("jax"), "python": versions.get("python")}
            row["devices"] = " ".join(dict.fromkeys(result.get("devices", ())))
        out.append(row)
    return out
