"""Evaluate the runs of a comparison, a study or a tuning again: one line a run, and one table."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vpjax.core.errors import UserError
from vpjax.core.table import mean_std, spread, table
from vpjax.report import run_folders
from vpjax.runs import recorded
from vpjax.runs.scores import NAMES, evaluate_run
from vpjax.runs.summary import reported_split
from vpjax.studies.lines import RunLines, ending

log = logging.getLogger(__name__)


def evaluate_runs(
    folder: Path, config_of: Callable[[Path], ConfigDict], checkpoint: str = ""
) -> list[dict[str, Any]]:
    """Evaluate the finished runs below a folder, without the trials of a tuning.

    Args:
        folder: of the comparison.
        config_of: run's folder -> its config, with what the evaluation changes.
        checkpoint: see `vpjax.runs.scores.evaluate_run`.

    Returns:
        A row for each run: label, seed, the metric's name, its value, and `recorded`: what the run
        recorded of the same split, None where other data or another checkpoint were evaluated.

    Raises:
        UserError: if no run is finished, or one cannot be evaluated.
    """
    found = [run for run in run_folders.find([folder], folder) if not run.is_trial]
    runs = [run for run in found if run.finished]
    for run in found:
        if not run.finished:
            log.warning("warning   %s is %s and is left out", run.name, run.status)
    if not runs:
        raise UserError(f"{folder} holds no finished run. Train again, which goes on with them.")
    rows, lines = [], RunLines([(run.label, None) for run in runs])
    for run in runs:
        config = config_of(run.folder)
        with lines.one(run.name) as say:
            result = evaluate_run(run.folder, config, checkpoint)
            say(ending(result))
        changed = recorded.changes(run.folder, config)
        same = not checkpoint and not any(map(recorded.changes_numbers, changed))
        key = f"{reported_split(result)}_{result['metric']}"
        rows.append(
            {"label": run.label, "seed": run.seed, "metric": result["metric"]}
            | {"split": reported_split(result), "value": result[key]}
            | {"recorded": run.result.get(key) if same else None}
        )
    return rows


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return a line for each label as text that is also Markdown, the best first."""
    by_label: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_label.setdefault(row["label"], []).append(row)
    name = " or ".join(dict.fromkeys(f"{r['split']} {NAMES[r['metric']]}" for r in rows))
    lines = []
    for label, own in by_label.items():
        values = [row["value"] for row in own]
        lines.append((float(np.mean(values)), [label, spread(values), len(own), _recorded(own)]))
    lines.sort(key=lambda line: -line[0])
    cells = [[c[0], mean_std(m, c[1]), str(c[2]), c[3]] for m, c in lines]
    return table(["run", f"{name} (%)", "seeds", "recorded"], cells, "lrrl")


def _recorded(rows: list[dict[str, Any]]) -> str:
    """Return whether runs gave what they had recorded."""
    if any(row["recorded"] is None for row in rows):
        return "not compared"
    differ = sum(row["recorded"] != row["value"] for row in rows)
    return f"{differ} of {len(rows)} differ" if differ else "the same"
