"""The sections of a report of one run: its numbers, pictures, config and log."""

from pathlib import Path
from typing import NamedTuple

from vpjax.report import comparability
from vpjax.report.blocks import Folded, Grid, Heading, Listing, Picture, Text, Warnings
from vpjax.report.run_folders import Run
from vpjax.report.sections import versions
from vpjax.runs import config as configs
from vpjax.runs.scores import NAMES

LAST = 200  # lines of the log
FIRST = ("curves", "prompts", "prompt_map", "attention", "gradcam", "confusion", "per_class")
FIRST += ("mistakes", "calibration")


def run_blocks(run: Run) -> list[NamedTuple]:
    """Return the blocks of a run's report."""
    title = f"{run.label} on {run.config.data.name}, seed {run.seed}"
    blocks: list[NamedTuple] = [Heading(title, 1), Text(_when(run))]
    if not run.finished:
        blocks.append(
            Warnings((f"The run is {run.status}" + f": {run.reason}" * bool(run.reason),))
        )
    elif comparability.selected_on_reported_split(run):
        text = f"The checkpoint was chosen on the images it reports ({run.split})."
        blocks.append(Warnings((f"{text} The number is too high.",)))
    if run.finished:
        blocks += [Heading("Result"), scores(run)]
        blocks += [published(run)] if run.expected else []
        blocks.append(facts(run))
    if shown := pictures(run.folder):
        blocks += [Heading("Pictures"), *shown]
    flat = configs.flat(run.config)
    config = Grid(["key", "value"], [[k, str(v)] for k, v in flat.items()], "ll")
    blocks += [Heading("Config"), Folded(f"All {len(flat)} keys", (config,))]
    if run.finished:
        blocks += [Heading("Versions"), versions([run])]
    if text := log_end(run.folder):
        blocks += [Heading("Log"), Folded(f"The last {LAST} lines", (Listing(text),))]
    return blocks


def _when(run: Run) -> str:
    took = f", {run.result['seconds']:,.0f} seconds" if "seconds" in run.result else ""
    return f"{run.name}: {run.method}" + (f"; ended {run.ended}{took}." if run.ended else ".")


def scores(run: Run) -> Grid:
    """Return a row for each metric of the run, a column for each split."""
    splits = [s for s in ("test", "val") if f"{s}_{run.metric}" in run.result]
    rows = []
    for key, name in (NAMES | {"loss": "loss", "count": "images"}).items():
        values = [run.result.get(f"{split}_{key}") for split in splits]
        if any(v is not None for v in values):
            rows.append([name, *(_number(key, v) for v in values)])
    return Grid(["", *splits], rows)


def _number(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    if key == "count":
        return f"{value:,}"
    return f"{value:.4f}" if key == "loss" else f"{value:.2f} %"


def published(run: Run) -> Text:
    """Return the recipe's published number, and the difference from it."""
    expected = run.expected
    text = f"Published: {expected['value']:.1f} %"
    text += f" ± {expected['tolerance']:.1f}" if expected.get("tolerance") is not None else ""
    text += f" ({expected['source']})" if expected.get("source") else ""
    return Text(f"{text}; this run differs by {run.score() - expected['value']:+.1f} points.")


def facts(run: Run) -> Grid:
    """Return the data, weights and settings that the number depends on."""
    result = run.result
    rows = [[kind, text] for kind, text in comparability.column_facts(run).items()]
    rows.append(["trainable parameters", f"{result['trainable']:,} ({result['percent']:.2f} %)"])
    rows.append(["data digest", result["data_fingerprint"]])
    rows.append(["weights sha256", result["weights"].get("sha256") or "random weights"])
    for key in ("step", "dtype", "attention", "remat"):
        if key in result:
            rows.append([key, str(result[key])])
    return Grid(["what", "this run"], rows, "ll")


def pictures(folder: Path) -> list[Picture]:
    """Return the pictures in a run's folder, the learning curves first."""
    found = {path.stem: path for path in sorted(folder.glob("*.png"))}
    order = [name for name in FIRST if name in found] + [n for n in found if n not in FIRST]
    names = [name for name in order if not name.startswith("report")]
    return [Picture(found[name], name.replace("_", " ")) for name in names]


def log_end(folder: Path) -> str:
    """Return the last lines of a run's log."""
    path = folder / "log.txt"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join(lines[-LAST:])
