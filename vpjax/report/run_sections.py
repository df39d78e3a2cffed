"""The sections of the page of one run.

    what it is, in a sentence and a few numbers      data: examples, counts
    curves        results by split and by class      mistakes
    what was learnt                                  files, and how to use them
    config, versions, log

Pictures and tables of other parts of the library are taken in where they lie in the run's folder.
"""

from pathlib import Path
from typing import NamedTuple

from vpjax.core.errors import UserError
from vpjax.core.table import read_rows
from vpjax.core.under import own_file
from vpjax.report import comparability, examples
from vpjax.report.blocks import (
    Facts,
    Folded,
    Grid,
    Heading,
    Listing,
    Picture,
    Text,
    Warnings,
)
from vpjax.report.run_files import usage
from vpjax.report.run_folders import Run
from vpjax.report.sections import versions
from vpjax.runs import config as configs
from vpjax.runs.scores import NAMES

LAST = 200  # lines of the log
MANY = 60  # classes, above which their table is folded
# Pictures by section: the file's name without ".png", and what it is called.
MISTAKES = {
    "mistakes": "Mistakes: the worst, the least sure, and pairs that are taken for each other",
    "confusion": "Confusion matrix: the share of each true class that was predicted as another",
    "per_class": "Accuracy of every class",
    "calibration": "Calibration: how often predictions of each confidence are right",
}
LEARNT = {
    "prompts": "Learnt prompts, each at its scale",
    "prompt_map": "Prompt map, and which prompts a patch of the image attends to",
    "attention": "What the class token attends to, and the share of prompts in it by layer",
    "gradcam": "Grad-CAM: which parts of an image speak for the predicted class",
}
_OURS = {"curves", *MISTAKES, *LEARNT, Path(examples.PICTURE).stem}


def run_blocks(run: Run) -> list[NamedTuple]:
    """Return the blocks of a run's page."""
    blocks: list[NamedTuple] = [Heading(title(run), 1), Text(sentence(run))]
    if run.finished:
        blocks.append(headline(run))
    if not run.finished:
        blocks.append(
            Warnings((f"The run is {run.status}" + f": {run.reason}" * bool(run.reason),))
        )
    elif comparability.selected_on_reported_split(run):
        text = f"The checkpoint was chosen on the images it reports ({run.split})."
        blocks.append(Warnings((f"{text} The number is too high.",)))
    if doubts := run.result.get("loss_faults"):
        blocks.append(Warnings(tuple(f"{text[:1].upper()}{text[1:]}." for text in doubts)))
    blocks += made_by(run)
    blocks += data(run)
    if curves := own_file(run.folder, "curves.png"):
        picture = Picture(curves, "Loss, accuracy and learning rate by step")
        blocks += [Heading("Curves"), picture]
    if run.finished:
        blocks += [Heading("Result"), scores(run)]
        blocks += [published(run)] if run.expected else []
        blocks += by_class(run)
    for name, known in (("Mistakes", MISTAKES), ("What was learnt", LEARNT)):
        if shown := _pictures(run.folder, known):
            blocks += [Heading(name), *shown]
    if more := other_pictures(run.folder):
        blocks += [Heading("More pictures"), *more]
    blocks += usage(run)
    return blocks + _background(run)


def _background(run: Run) -> list[NamedTuple]:
    """Return what the numbers depend on: facts, config, versions, log."""
    flat = configs.flat(run.config)
    config = Grid(["key", "value"], [[k, str(v)] for k, v in flat.items()], "ll")
    blocks = [Heading("Sources"), facts(run)] if run.finished else []
    blocks += [Heading("Config"), Folded(f"All {len(flat)} keys", (config,))]
    if run.finished:
        blocks += [Heading("Versions"), versions([run])]
    if text := log_end(run.folder):
        blocks += [Heading("Log"), Folded(f"The last {LAST} lines", (Listing(text),))]
    return blocks


def title(run: Run) -> str:
    """Return the title of a run's page."""
    return f"{run.label} on {run.config.data.name}, seed {run.seed}"


def sentence(run: Run) -> str:
    """Return what a run is: method, backbone, data, number."""
    config = run.config
    text = f"The method {run.method} on the backbone {config.get('backbone', {}).get('name', '?')}"
    if run.finished:
        where = run.result["weights"].get("where")
        sound = run.result["weights"].get("sha256")
        text += f" (weights {where})" if sound and where else " (random weights)"
        train = run.result["data"]["train"]
        text += f", trained on {train['images']:,} images of {config.data.name}"
        count = run.result.get(f"{run.split}_count")
        images = f" ({count:,} images)" if count else ""
        text += f": {NAMES[run.metric]} {run.score():.2f} % on {run.split}{images}"
    else:
        text += f", on {config.data.name}"
    if run.ended:
        text += f"; ended {run.ended}"
    return f"{text}. Its folder: {run.name}."


def headline(run: Run) -> Facts:
    """Return the numbers that a reader looks for first."""
    result = run.result
    name, height = run.metric, " x ".join(map(str, dict.fromkeys(result["image_size"])))
    count = result.get(f"{run.split}_count")
    items = [
        (
            f"{run.split} {NAMES[name]}",
            f"{run.score():.2f} %",
            f"n = {count:,} images" if count else "",
        ),
        ("trainable parameters", f"{result['trainable']:,}", f"{result['percent']:.2f} % of all"),
        ("training images", f"{result['data']['train']['images']:,}", f"at {height} pixels"),
    ]
    if "seconds" in result:
        devices = ", ".join(dict.fromkeys(result.get("devices", ())))
        items.append(("time", _time(result["seconds"]), devices))
    return Facts(tuple(items))


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def made_by(run: Run) -> list[NamedTuple]:
    """Return the command of a run, and the commit or version of the program."""
    result = run.result
    if not run.finished:
        return []
    made = result.get("versions", {}).get("vpjax", "")
    text = f"vpjax {made}" if made else "vpjax"
    text += f", commit {result['commit'][:12]}" if result.get("commit") else ""
    if command := result.get("command"):
        return [Text(f"Made by {text}:"), Listing(command)]
    return [Text(f"Made by {text}, from Python.")] if "command" in result else []


def data(run: Run) -> list[NamedTuple]:
    """Return the section of the data: examples, and counts by split and class."""
    known = examples.read_facts(run.folder)
    splits = known["splits"] if known else run.result.get("data", {})
    if not splits:
        return []
    rows = [[name, f"{s['images']:,}", s["name"]] for name, s in splits.items()]
    out = [Heading("Data"), Grid(["split", "images", "source"], rows, "lrl")]
    if (shown := examples.sheet(run.folder)) is not None:
        count, total = len(shown.rows), len(known["classes"])
        text = "Training images" + (f" of {count} of {total:,} classes" if count < total else "")
        out += [Text(f"{text}, in brackets how many there are:"), shown]
    if known and any(s["by_class"] for s in splits.values()):
        named = [name for name, s in splits.items() if s["by_class"]]
        columns = [splits[name]["by_class"] for name in named]
        rows = [
            [name, *(f"{column[i]:,}" for column in columns)]
            for i, name in enumerate(known["classes"])
        ]
        grid = Grid(["class", *named], rows, "lr")
        out.append(Folded(f"Images of all {len(rows):,} classes by split", (grid,)))
    return out


def scores(run: Run) -> Grid:
    """Return a row for each metric of the run, a column for each split."""
    splits = [s for s in ("test", "val") if f"{s}_{run.metric}" in run.result]
    rows = []
    for key, name in (NAMES | {"loss": "loss", "count": "images"}).items():
        values = [run.result.get(f"{split}_{key}") for split in splits]
        if any(v is not None for v in values):
            rows.append([name, *(_number(key, v) for v in values)])
    return Grid(["metric", *splits], rows)


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


def by_class(run: Run) -> list[NamedTuple]:
    """Return the content of per_class.csv as a table."""
    path = own_file(run.folder, "per_class.csv")
    if path is None:
        return []
    try:
        header, rows = read_rows(path)
    except UserError as error:
        return [Warnings((str(error),))]
    if not rows:
        return []
    rows = [[_short(cell) for cell in row] for row in rows]
    texts = [all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    align = "".join("r" if numbers else "l" for numbers in texts)
    names = [name.replace("_", " ") for name in header]
    grid = Grid(names, rows, align, "Accuracy in percent; of the split that is reported.")
    return [Folded(f"Every class ({len(rows):,})", (grid,))]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == ""
    return True


def _short(text: str) -> str:
    """Return a number with two digits after the point, if it has more; else the text."""
    return f"{float(text):.2f}" if "." in text and _is_number(text) else text


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


def _pictures(folder: Path, known: dict[str, str]) -> list[Picture]:
    paths = {name: own_file(folder, f"{name}.png") for name in known}
    return [Picture(path, known[name]) for name, path in paths.items() if path]


def other_pictures(folder: Path) -> list[Picture]:
    """Return further pictures in a run's folder, such as those of a study it is part of."""
    paths = [p for p in sorted(folder.glob("*.png")) if p.stem not in _OURS]
    paths = [p for p in paths if own_file(folder, p.name)]
    return [Picture(p, p.stem.replace("_", " ")) for p in paths if not p.stem.startswith("report")]


def log_end(folder: Path) -> str:
    """Return the last lines of a run's log."""
    path = own_file(folder, "log.txt")
    lines = path.read_text(errors="replace").splitlines() if path else []
    return "\n".join(lines[-LAST:])
