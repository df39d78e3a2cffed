"""What a report of one run says: its numbers, pictures, config and log."""

from pathlib import Path
from typing import NamedTuple

from vpjax.report import sources
from vpjax.report.content import versions
from vpjax.report.document import Folded, Grid, Heading, Listing, Picture, Text, Warnings
from vpjax.report.runs import Run
from vpjax.runs import config as configs
from vpjax.runs.scores import NAMES

LAST = 200  # lines of the log
FIRST = ("curves", "prompts", "prompt_map", "attention", "gradcam", "confusion", "per_class")


def single(run: Run) -> list[NamedTuple]:
    """Returns the blocks of a run's report."""
    title = f"{run.label} on {run.config.data.name}, seed {run.seed}"
    blocks: list[NamedTuple] = [Heading(title, 1), Text(_when(run))]
    if not run.finished:
        blocks.append(
            Warnings((f"The run is {run.status}" + f": {run.reason}" * bool(run.reason),))
        )
    elif sources.peeks(run):
        text = f"The checkpoint was chosen on the images it is told about ({run.split})."
        blocks.append(Warnings((f"{text} The number is too high.",)))
    if run.finished:
        blocks += [Heading("Result"), scores(run), published(run), facts(run)]
    if shown := pictures(run.folder):
        blocks += [Heading("Pictures"), *shown]
    flat = configs.flat(run.config)
    config = Grid(["key", "value"], [[k, str(v)] for k, v in flat.items()], "ll")
    blocks += [Heading("Config"), Folded(f"All {len(flat)} keys", (config,))]
    if run.finished:
        blocks += [Heading("Versions"), versions([run])]
    if text := log_of(run.folder):
        blocks += [Heading("Log"), Folded("What the run said", (Listing(text),))]
    return [block for block in blocks if block is not None]


def _when(run: Run) -> str:
    took = f", {run.result['seconds']:,.0f} seconds" if "seconds" in run.result else ""
    return f"{run.name}: {run.method}" + (f"; ended {run.ended}{took}." if run.ended else ".")


def scores(run: Run) -> Grid:
    """Returns the run's numbers, a row each."""
    splits = [s for s in ("test", "val") if f"{s}_accuracy" in run.result]
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


def published(run: Run) -> Text | None:
    """Says how the number lies to the recipe's published one, if it has one."""
    told = run.expected
    if not told:
        return None
    text = f"Published: {told['value']:.1f} %"
    text += f" ± {told['tolerance']:.1f}" if told.get("tolerance") is not None else ""
    text += f" ({told['source']})" if told.get("source") else ""
    return Text(f"{text}; this run is {run.score() - told['value']:+.1f} from it.")


def facts(run: Run) -> Grid:
    """Returns what the number was made with."""
    result = run.result
    rows = [[kind, text] for kind, text in sources.facts(run).items()]
    rows.append(["trainable parameters", f"{result['trainable']:,} ({result['percent']:.2f} %)"])
    rows.append(["data digest", result["data_fingerprint"]])
    rows.append(["weights sha256", result["weights"].get("sha256") or "drawn from the seed"])
    for key in ("step", "dtype", "attention", "remat"):
        if key in result:
            rows.append([key, str(result[key])])
    return Grid(["what", "this run"], rows, "ll")


def pictures(folder: Path) -> list[Picture]:
    """Returns the pictures in a run's folder, those of its course first."""
    found = {path.stem: path for path in sorted(folder.glob("*.png"))}
    order = [name for name in FIRST if name in found] + [n for n in found if n not in FIRST]
    names = [name for name in order if not name.startswith("report")]
    return [Picture(found[name], name.replace("_", " ")) for name in names]


def log_of(folder: Path) -> str:
    """Returns the end of a run's log."""
    path = folder / "log.txt"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join(lines[-LAST:])
