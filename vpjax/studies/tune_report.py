"""The files of `tune`: the table that the choice is made from, and the final result."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vpjax.core import escape
from vpjax.core.errors import UserError
from vpjax.core.files import write_json, write_text
from vpjax.core.table import mean_std, spread, table, write_csv
from vpjax.runs.scores import NAMES
from vpjax.runs.workdir import RESULT_ADVICE
from vpjax.studies import trials
from vpjax.studies.plan import Plan
from vpjax.studies.trials import Trial

RULE = "highest val {} after the last epoch; of equals the first of the grid"
STD = "population standard deviation (divided by n), as in the papers"
ENDS = ("smallest", "largest")


def chosen_metric(plan: Plan) -> str:
    """Return the metric that chooses: `config.study.tune.metric`, or the primary metric."""
    if plan.config.study.tune.metric:
        return plan.config.study.tune.metric
    runs = [*plan.selection, *(plan.finals if plan.choice else [])]
    found = (trial.outcome or {} for trial in runs)
    return next((outcome["metric"] for outcome in found if "metric" in outcome), "accuracy")


def selection_rows(plan: Plan) -> list[dict[str, Any]]:
    """Return a row for each trial of the selection, in the grid's order."""
    metric = chosen_metric(plan)
    return [{"trial": n} | row(t, "val", metric) for n, t in enumerate(plan.selection)]


def row(trial: Trial, split: str, metric: str) -> dict[str, Any]:
    """Return a trial's parameters and result; the metric, in percent, is under the split's name.

    Raises:
        UserError: if the result has no such metric.
    """
    found = trial.outcome or {"status": "missing"}
    out = {"name": trial.name, **trial.params, "status": found["status"]}
    if out["status"] != "finished":
        return out | {split: None, "reason": found.get("reason", "")}
    key = f"{split}_{metric}"
    if key not in found:
        names = sorted(k.removeprefix(f"{split}_") for k in found if k.startswith(f"{split}_"))
        raise UserError(f"config.study.tune.metric is {metric!r}; a result has {', '.join(names)}")
    try:
        numbers = {k: found[k] for k in (f"{split}_loss", "step", "seconds")}
    except KeyError as e:
        raise UserError(
            f"{trial.folder / 'result.json'} is damaged: it lacks {e}. {RESULT_ADVICE}"
        ) from e
    doubts = {"doubts": "; ".join(found["loss_faults"])} if found.get("loss_faults") else {}
    return out | {split: found[key]} | numbers | doubts


def choice_of(
    plan: Plan, best: Mapping[str, Any] | None, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the content of choice.json.

    Args:
        best: the chosen row; None if the grid has one point only.
        rows: all trials of the selection.
    """
    points = trials.grid(plan.config)
    params = points[0] if best is None else plan.selection[best["trial"]].params
    states = [r["status"] for r in rows]
    return {
        "name": best["name"] if best else "",
        "params": dict(params),
        "val": best["val"] if best else None,
        "rule": RULE.format(chosen_metric(plan)) if best else "nothing to choose from",
        "made": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "data": {k: plan.config.data[k] for k in ("name", "train", "val", "test")},
        "trials": {s: states.count(s) for s in sorted(set(states))},
        "edges": edges(params, points),
        "table": list(rows),
    }


def edges(params: trials.Params, points: Sequence[trials.Params]) -> dict[str, str]:
    """Return which chosen numbers are the smallest or largest of three or more in the grid."""
    out = {}
    for key, value in params.items():
        values = {point[key] for point in points}
        if len(values) > 2 and all(isinstance(v, int | float) for v in values):
            ends = dict(zip((min(values), max(values)), ENDS, strict=True))
            out |= {key: ends[value]} if value in ends else {}
    return out


def write(plan: Plan) -> dict[str, Any]:
    """Write tune.json, tune.md and tune.csv; return the content of the first.

    Raises:
        UserError: if no final run finished.
    """
    config, choice, metric = plan.config, plan.choice, chosen_metric(plan)
    rows = [{"seed": t.config.seed} | row(t, "test", metric) for t in plan.finals]
    good = [r for r in rows if r["status"] == "finished"]
    values = [r["test"] for r in good]
    facts = next((t.outcome for t in plan.finals if t.outcome["status"] == "finished"), {})
    kept = ("method", "trainable", "total", "percent", "weights", "data", "preset", "versions")
    summary = {
        "label": config.study.label or config.method.name,
        "task": config.data.name,
        "metric": metric,
        "mean": float(np.mean(values)) if values else None,
        "std": spread(values),
        "std_is": STD,
        "sample_std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "seeds": rows,
        "diverged": [r["seed"] for r in rows if r["status"] == "diverged"],
        "failed": [r["seed"] for r in rows if r["status"] == "failed"],
        "expected": config.study.expected.to_dict(),
        "choice": {k: v for k, v in choice.items() if k != "table"},
    } | {k: facts[k] for k in kept if k in facts}
    write_json(plan.folder / "tune.json", summary)
    text = as_text(summary, choice["table"])
    write_text(plan.folder / "tune.md", escape.no_html(text) + "\n")
    lines = [{"phase": "select"} | dict(r) for r in choice["table"]]
    write_csv(plan.folder / "tune.csv", lines + [{"phase": "final"} | r for r in rows], ("phase",))
    if not good:
        reason = rows[0]["reason"]
        raise UserError(f"{plan.folder}: none of {len(rows)} final runs finished: {reason}")
    return summary


def as_text(summary: Mapping[str, Any], selection: Sequence[Mapping[str, Any]]) -> str:
    """Return the final runs and the trials as text that is also Markdown."""
    choice, metric = summary["choice"], metric_name(summary["metric"])
    parts = [f"# {summary['label']} on {summary['task']}", line(summary)]
    chosen = choice["name"] or "the recipe as it is, as there was nothing to choose from"
    parts.append(f"Chosen: {chosen}" + (f"; {choice['rule']}." if choice["name"] else "."))
    head = ["seed", f"test {metric} (%)", "test loss", "seconds", "status"]
    parts.append(
        table(head, [_cells(r, str(r["seed"]), "test") for r in summary["seeds"]], "rrrrl")
    )
    if selection:
        order = sorted(selection, key=lambda r: -1.0 if r["val"] is None else r["val"])[::-1]
        head = ["trial", f"val {metric} (%)", "val loss", "seconds", "status"]
        parts.append(table(head, [_cells(r, r["name"], "val") for r in order], "lrrrl"))
    return "\n\n".join(parts)


def line(summary: Mapping[str, Any]) -> str:
    """Return mean and standard deviation, missing seeds and the published value in a sentence."""
    seeds, missing = summary["seeds"], []
    count = sum(r["status"] == "finished" for r in seeds)
    if summary["mean"] is None:
        return f"No final run finished ({len(seeds)} seeds)."
    text = f"Test {metric_name(summary['metric'])} {mean_std(summary['mean'], summary['std'])} %"
    many = f"mean and population standard deviation of {count} seeds"
    text += f", {many if count > 1 else 'of one seed'}"
    for state in ("diverged", "failed"):
        if summary[state]:
            missing.append(f"{state}: {', '.join(map(str, summary[state]))}")
    text += f" of {len(seeds)} ({'; '.join(missing)})" if missing else ""
    if (value := summary["expected"].get("value")) is not None:
        tolerance = summary["expected"].get("tolerance")
        text += f"; published {value}" + (f" ± {tolerance}" if tolerance is not None else "")
    return text + "."


def metric_name(metric: str) -> str:
    """Return a metric's name in tables."""
    return NAMES.get(metric, metric)


def _cells(r: Mapping[str, Any], name: str, split: str) -> list[str]:
    if r[split] is None:
        return [name, "-", "-", "-", f"{r['status']}: {r['reason']}"[:120]]
    state = f"finished, but {r['doubts']}"[:120] if "doubts" in r else "finished"
    return [name, f"{r[split]:.2f}", f"{r[f'{split}_loss']:.4f}", f"{r['seconds']:.1f}", state]
