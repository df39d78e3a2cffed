"""The sections of a report of several runs, in order."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from vpjax.core.table import mean_std
from vpjax.core.under import own_file
from vpjax.data.transforms import PRESETS
from vpjax.report import comparability
from vpjax.report.blocks import Folded, Grid, Heading, Picture, Rich, Text, Warnings
from vpjax.report.means import Mean, means, overall
from vpjax.report.run_folders import RUN_PAGE, Run
from vpjax.report.tables import WIDE, Cell, Table

FEW = 30  # runs, up to which they are listed at once
STUDIES = ("comparison", "ablation")  # how the pictures of studies begin

HOW_TO_READ = (
    "Numbers are accuracy (of images with several classes mAP) in percent, on the split named "
    "under Sources: the mean over seeds ± the population's standard deviation, and in brackets the "
    "number of seeds. † marks a number with missing seeds: diverged, failed or unfinished. The "
    "mean of a benchmark is given only where all its data sets were measured.",
    "VTAB-1k has two means, which differ by points for the same runs: over its 19 tasks, and over "
    "the means of its three groups. Compare like with like.",
    "Published values are those of the run's recipe. Within, above and below say where the "
    "measured mean lies, given the recipe's tolerance.",
)


def report_blocks(
    tables: Sequence[Table],
    runs: Sequence[Run],
    trials: Sequence[Run],
    pictures: Mapping[str, Sequence[Picture]],
    folder: Path,
) -> list[NamedTuple]:
    """Return the blocks of a report.

    Args:
        runs: all runs that were found.
        trials: those of them that only served to choose settings.
        pictures: by the table's title.
        folder: of the report, which links are relative to.
    """
    blocks: list[NamedTuple] = [Heading(title(folder), 1), Text(scope(tables, runs, trials))]
    if lines := warnings(tables, runs, trials):
        blocks.append(Warnings(tuple(lines)))
    for table in tables:
        blocks.append(Heading(table.title))
        blocks += [Warnings((table.notice,))] if table.notice else []
        blocks += [summary(table), *pictures.get(table.title, ())]
        blocks += [Heading("Every data set", 3), by_data_set(table)]
        if (published := against_published(table)).rows:
            blocks += [Heading("Measured and published", 3), published]
        if (settings := chosen_settings(table)).rows:
            blocks += [Heading("Chosen on val", 3), settings]
        blocks += [Heading("Sources", 3), *sources(table)]
    if drawn := study_pictures(folder):
        blocks += [Heading("Pictures of the study"), *drawn]
    shown = [run for run in runs if run not in trials]
    listed = run_list(shown, folder)
    few = len(shown) <= FEW
    blocks += [Heading("Runs"), listed if few else Folded(f"All {len(shown)} runs", (listed,))]
    if trials:
        text = f"{len(trials)} runs that served to choose settings"
        blocks.append(Folded(text, (run_list(trials, folder),)))
    return [*blocks, versions(runs), Heading("How to read this"), *map(Text, HOW_TO_READ)]


def title(folder: Path) -> str:
    """Return the title of the report of a folder."""
    name = folder.resolve().name
    return f"Results of {name}" if name else "Results"


def study_pictures(folder: Path) -> list[Picture]:
    """Return the pictures that `compare` and `ablate` left in a folder.

    comparison.png is not among them: the report draws it itself.
    """
    found = [p for kind in STUDIES for p in sorted(folder.glob(f"{kind}_*.png"))]
    return [Picture(path, path.stem.replace("_", " ")) for path in found]


def scope(tables: Sequence[Table], runs: Sequence[Run], trials: Sequence[Run]) -> str:
    """Return how many runs, methods and data sets the report has, and when they were run."""
    methods = {m for table in tables for m in table.methods}
    data = {(t.suite, c.name) for t in tables for c in t.columns}
    text = f"{_count(len(runs) - len(trials), 'run')}, {_count(len(methods), 'method')}, "
    text += _count(len(data), "data set")
    days = sorted(day for run in runs for day in (run.began[:10], run.ended[:10]) if day)
    text += f"; run {' to '.join(dict.fromkeys((days[0], days[-1])))}." if days else "."
    if not trials:
        return text
    bad = sum(not run.finished for run in trials)
    more = f"{_count(len(trials), 'run')} more served to choose settings on val"
    more += f", of which {bad} did not finish" if bad else ""
    return f"{text} {more}: they are in report_runs.csv and in no table."


def warnings(tables: Sequence[Table], runs: Sequence[Run], trials: Sequence[Run]) -> list[str]:
    """Return a line for each reason to doubt a number, or for a number to be missing."""
    lost = [run for run in runs if not (run.finished or run in trials)]
    out = [f"{run.name}: {run.status}" + (f", {run.reason}" * bool(run.reason)) for run in lost]
    for run in runs:
        if run.finished and run not in trials:
            out += [f"{run.name}: {text}." for text in run.result.get("loss_faults", ())]
    for run in runs:
        if run.finished and run not in trials and comparability.selected_on_reported_split(run):
            out.append(
                f"{run.name} chose its checkpoint on the images it reports ({run.split}): the "
                "number is too high."
            )
    out += [text for table in tables if (text := _wide(table))]
    return out + [f"{table.title}: {table.notice}" for table in tables if table.notice]


def _wide(table: Table) -> str:
    """Return where a mean hides that seeds disagree; "" if nowhere."""
    spans = []
    for method in table.methods:
        for name, cell in table.row(method).items():
            low, high = min(cell.scores.values()), max(cell.scores.values())
            if high - low > WIDE:
                spans.append((high - low, f"{method} on {name}, {low:.1f} to {high:.1f}"))
    if not spans:
        return ""
    text = (
        f"{table.title}: seeds are more than {WIDE:g} points apart in {len(spans)} of its numbers"
    )
    return f"{text}; the widest is {max(spans)[1]}."


def summary(table: Table) -> Grid:
    """Return a row for each method: means, parameters, seeds."""
    found = {method: means(table, method) for method in table.methods}
    name, all_have = overall(table)
    named = [mean.name for mean in next(iter(found.values()))]
    extra = bool(name) and name not in named
    has_published = any(m.published is not None for ms in found.values() for m in ms)
    header = ["method", *(_titled(n) for n in named), *([name] if extra else [])]
    header += ["data sets", "trainable parameters", "share", "seeds"]
    rows = []
    for method in table.methods:
        cells = list(table.row(method).values())
        texts = [
            _mean(mean, "tasks" if table.suite == "vtab" else "sets") for mean in found[method]
        ]
        texts += [_mean(all_have[method], "sets")] if extra else []
        texts += [f"{len(cells)}", f"{_average(cells, 'trainable'):,.0f}"]
        texts += [f"{_average(cells, 'percent'):.2f} %", seeds(cells)]
        rows.append([method, *texts])
        if has_published:
            values = ["" if m.published is None else f"{m.published:.2f}" for m in found[method]]
            rest = [""] * (len(header) - 1 - len(values))
            rows.append(["published", *values, *rest])
    caption = "Parameters are means over data sets: heads differ with the number of classes."
    return Grid(header, rows, "lr", caption, follows="published")


def by_data_set(table: Table) -> Grid:
    """Return a row for each data set, a column for each method, and the means below."""
    rows, group = [], None
    for column in table.columns:
        if group not in (None, column.group):
            rows.append([""] * (len(table.methods) + 1))
        group = column.group
        rows.append([column.name, *(_cell(table.row(m).get(column.name)) for m in table.methods)])
    found = [means(table, method) for method in table.methods]
    if found[0]:
        rows.append([""] * (len(table.methods) + 1))
        noun = "tasks" if table.suite == "vtab" else "sets"
        rows += [
            [_titled(ms[0].name), *(_mean(m, noun) for m in ms)] for ms in zip(*found, strict=True)
        ]
    return Grid(["data set", *table.methods], rows, "lr")


def against_published(table: Table) -> Grid:
    """Return measured and published numbers, where a recipe has config.study.expected."""
    rows = []
    for method in table.methods:
        for name, cell in table.row(method).items():
            if cell.published is not None:
                difference = f"{cell.mean - cell.published:+z.1f}"
                tolerance = "-" if cell.tolerance is None else f"± {cell.tolerance:.1f}"
                line = [name, method, _cell(cell), f"{cell.published:.1f}", tolerance, difference]
                rows.append([*line, cell.verdict or "-", cell.runs[0].expected.get("source", "")])
    header = [
        "data set",
        "method",
        "measured",
        "published",
        "tolerance",
        "difference",
        "",
        "source",
    ]
    return Grid(header, rows, "llrrrrll")


def chosen_settings(table: Table) -> Grid:
    """Return what `tune` chose for each number, and from how many trials."""
    rows = []
    for method in table.methods:
        for name, cell in table.row(method).items():
            if not (choice := cell.runs[0].choice).get("name"):
                continue
            trials = ", ".join(f"{n} {state}" for state, n in choice["trials"].items())
            edges = ", ".join(f"{key} is the {end}" for key, end in choice["edges"].items())
            rows.append([name, method, choice["name"], f"{choice['val']:.2f}", trials, edges])
    header = ["data set", "method", "chosen", "val (%)", "trials", "edge of its grid"]
    return Grid(header, rows, "lllrll")


def sources(table: Table) -> list[Grid]:
    """Return preprocessing, weights and splits of the numbers: shared first, then by data set."""
    cells = [cell for method in table.methods for cell in table.row(method).values()]
    shared = [comparability.benchmark_facts(run) for cell in cells for run in cell.runs]
    rows = []
    for kind in ("protocol", "preset", "weights"):
        for value in dict.fromkeys(facts[kind] for facts in shared):
            rows.append([kind, value + _described(kind, value)])
    lines = []
    for column in table.columns:
        rows_of = (table.row(method).get(column.name) for method in table.methods)
        # All runs of the column agree.
        run = next(cell.runs[0] for cell in rows_of if cell is not None)
        facts, train = comparability.column_facts(run), run.result["data"]["train"]["images"]
        lines.append([column.name, f"{train:,}", facts["data"], facts["protocol"]])
    header = ["data set", "training images", "source", "splits"]
    return [Grid(["what", "all numbers above"], rows, "ll"), Grid(header, lines, "lrll")]


def _described(kind: str, value: str) -> str:
    """Return what a preset does, in words."""
    preset = PRESETS.get(value.partition(" ")[0]) if kind == "preset" else None
    if preset is None:  # its fields are the value
        return ""
    how = (
        "as they are" if preset.rule == "none" else f"{preset.rule} side" * (preset.rule == "short")
    )
    resize = f"resized {how or 'to the whole'} ({preset.resize})" if preset.resize else how
    added = ", ".join(preset.augment) or "none"
    return f": {resize}; mean {preset.mean}, std {preset.std}; augmentation: {added}"


def run_list(runs: Iterable[Run], folder: Path) -> Grid:
    """Return a row for each run, with a link to its page, relative to `folder`."""
    rows = []
    for run in runs:
        number = f"{run.score():.2f}" if run.finished else "-"
        line = [_linked(run, folder), run.label, run.config.data.name, str(run.seed), run.status]
        kind = [run.metric, run.split] if run.finished else ["-", "-"]
        rows.append([*line, number, *kind, run.ended or "-"])
    header = ["folder", "method", "data", "seed", "status", "result (%)", "metric", "split"]
    header.append("ended")
    return Grid(header, rows, "lllrlrlll")


def _linked(run: Run, folder: Path) -> str:
    """Return a run's name, with the address of its page if it has one."""
    path = own_file(run.folder, RUN_PAGE)
    if path is None:
        return run.name
    try:
        way = os.path.relpath(path.resolve(), folder.resolve())
    except ValueError:  # on another drive
        return run.name
    return Rich(run.name, href=quote(os.fsencode(Path(way).as_posix())))


def versions(runs: Iterable[Run]) -> Grid:
    """Return the software and devices of the runs, all values where runs differ."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        named = dict(run.result.get("versions", {}))
        named["devices"] = ", ".join(dict.fromkeys(run.result.get("devices", ())))
        for name, version in named.items():
            if version:
                found.setdefault(name, {})[version] = None
    rows = [[name, ", ".join(values)] for name, values in found.items()]
    return Grid(["software", "version"], rows, "ll")


# Texts of numbers


def _cell(cell: Cell | None) -> str:
    """Return "78.1 ± 1.0 (5) †"."""
    if cell is None or not cell.runs:
        return "-"
    text = mean_std(cell.mean, cell.std, 1) + f" ({len(cell.runs)})"
    tip = "; ".join(f"seed {seed}: {score:.2f}" for seed, score in cell.scores.items())
    tip += f"; {cell.trainable:,.0f} trainable parameters"
    if cell.failed:
        tip += "; missing: " + ", ".join(f"seed {run.seed} {run.status}" for run in cell.failed)
    return Rich(text + (" †" if cell.failed else ""), tip=tip)


def _mean(mean: Mean, noun: str) -> str:
    if mean.value is None:
        return f"{mean.have} of {mean.of} {noun}"
    return mean_std(mean.value, mean.std)


def seeds(cells: Iterable[Cell]) -> str:
    """Return how many seeds the numbers have: "5", or "3 to 5"."""
    counts = sorted({len(cell.runs) for cell in cells})
    return " to ".join(dict.fromkeys(map(str, (counts[0], counts[-1]))))


def _titled(name: str) -> str:
    return name if name.startswith("mean") else f"{name} mean"


def _average(cells: Sequence[Cell], attribute: str) -> float:
    return sum(getattr(cell, attribute) for cell in cells) / len(cells)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)
