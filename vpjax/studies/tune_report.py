"""What `--mode tune` writes down: the table the choice was made from, and what came of it."""

import datetime
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vpjax.core.errors import UserError
from vpjax.core.files import write_json
from vpjax.core.table import table
from vpjax.studies import trials
from vpjax.studies.ablate import write_csv
from vpjax.studies.trials import Trial

if TYPE_CHECKING:
    from vpjax.studies.tune import Plan

RULE = "highest val {} after the last epoch; of equals the first of the grid"
SPREAD = "population standard deviation (divided by n), as in the papers"
ENDS = ("smallest", "largest")


def table_of(plan: "Plan") -> list[dict[str, Any]]:
    """Returns a row a trial of the selection, in the grid's order."""
    metric = plan.config.study.tune.metric
    return [{"trial": n} | row(t, "val", metric) for n, t in enumerate(plan.selection)]


def row(trial: Trial, split: str, metric: str) -> dict[str, Any]:
    """Returns what came out of a trial; `split` has the number, in percent.

    Raises: UserError if the result has no such number.
    """
    found = trial.outcome or {"status": "missing"}
    out = {"name": trial.name, **trial.cell, "status": found["status"]}
    if out["status"] != "finished":
        return out | {split: None, "reason": found.get("reason", "")}
    key = f"{split}_{metric}"
    if key not in found:
        names = sorted(k.removeprefix(f"{split}_") for k in found if k.startswith(f"{split}_"))
        raise UserError(f"config.study.tune.metric is {metric!r}; a result has {', '.join(names)}")
    numbers = {k: found[k] for k in (f"{split}_loss", "step", "seconds")}
    return out | {split: found[key]} | numbers


def choice_of(
    plan: "Plan", best: Mapping[str, Any] | None, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns what choice.json holds; without trials the grid has one cell, or none."""
    found = trials.cells(plan.config)
    cell = found[0] if best is None else plan.selection[best["trial"]].cell
    states = [r["status"] for r in rows]
    return {
        "name": best["name"] if best else "",
        "cell": dict(cell),
        "val": best["val"] if best else None,
        "rule": RULE.format(plan.config.study.tune.metric) if best else "nothing to choose from",
        "made": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "data": {k: plan.config.data[k] for k in ("name", "train", "val", "test")},
        "trials": {s: states.count(s) for s in sorted(set(states))},
        "edges": edges(cell, found),
        "table": list(rows),
    }


def edges(cell: trials.Cell, found: Sequence[trials.Cell]) -> dict[str, str]:
    """Returns which numbers of the chosen cell are the smallest or largest of three or more."""
    out = {}
    for key, value in cell.items():
        values = {c[key] for c in found}
        if len(values) > 2 and all(isinstance(v, int | float) for v in values):
            ends = dict(zip((min(values), max(values)), ENDS, strict=True))
            out |= {key: ends[value]} if value in ends else {}
    return out


def write(plan: "Plan") -> dict[str, Any]:
    """Writes tune.json, tune.md and tune.csv, and returns the first.

    Raises: UserError if no final run finished.
    """
    config, choice, metric = plan.config, plan.choice, plan.config.study.tune.metric
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
        "std": float(np.std(values)) if values else None,
        "std_is": SPREAD,
        "sample_std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "seeds": rows,
        "diverged": [r["seed"] for r in rows if r["status"] == "diverged"],
        "failed": [r["seed"] for r in rows if r["status"] == "failed"],
        "expected": config.study.expected.to_dict(),
        "choice": {k: v for k, v in choice.items() if k != "table"},
    } | {k: facts[k] for k in kept if k in facts}
    write_json(plan.folder / "tune.json", summary)
    text = as_text(summary, choice["table"])
    (plan.folder / "tune.md").write_text(text + "\n")
    lines = [{"phase": "select"} | dict(r) for r in choice["table"]]
    write_csv(plan.folder / "tune.csv", lines + [{"phase": "final"} | r for r in rows], ("phase",))
    if not good:
        reason = rows[0]["reason"]
        raise UserError(f"{plan.folder}: none of {len(rows)} final runs finished: {reason}")
    return summary


def as_text(summary: Mapping[str, Any], selection: Sequence[Mapping[str, Any]]) -> str:
    """Returns both tables as text that is also Markdown."""
    choice, metric = summary["choice"], summary["metric"]
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
    """Returns the mean and its spread, what was published, and what is missing, in a sentence."""
    seeds, lost = summary["seeds"], []
    count = sum(r["status"] == "finished" for r in seeds)
    if summary["mean"] is None:
        return f"No final run finished ({len(seeds)} seeds)."
    text = f"Test {summary['metric']} {summary['mean']:.2f} ± {summary['std']:.2f} %"
    text += f", mean and population standard deviation of {count} seeds"
    for state in ("diverged", "failed"):
        if summary[state]:
            lost.append(f"{state}: {', '.join(map(str, summary[state]))}")
    text += f" of {len(seeds)} ({'; '.join(lost)})" if lost else ""
    if (value := summary["expected"].get("value")) is not None:
        tolerance = summary["expected"].get("tolerance")
        text += f"; published {value}" + (f" ± {tolerance}" if tolerance is not None else "")
    return text + "."


def _cells(r: Mapping[str, Any], name: str, split: str) -> list[str]:
    if r[split] is None:
        return [name, "-", "-", "-", f"{r['status']}: {r['reason']}"[:120]]
    return [name, f"{r[split]:.2f}", f"{r[f'{split}_loss']:.4f}", f"{r['seconds']:.1f}", "finished"]
