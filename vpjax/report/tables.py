"""Group runs into tables: method x data set x seed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vpjax.core.errors import unknown
from vpjax.core.table import spread
from vpjax.data.benchmarks import BENCHMARKS
from vpjax.report import comparability
from vpjax.report.comparability import KINDS, Column, Group, Pair
from vpjax.report.run_folders import Run
from vpjax.runs import config as configs

TITLES = {"vtab": "VTAB-1k", "fgvc": "FGVC", "hta": "HTA", "inat": "iNaturalist"}
TITLES |= {"small": "Small data sets", "": "Other data sets"}
AVERAGED = ("vtab", "fgvc", "hta")  # benchmarks that are reported as a mean over data sets
SHOWN = 3  # keys that tell rows apart, at most
WIDE = 10.0  # points between seeds that a mean should not hide

# Config keys that may differ between seeds of one cell, because they change no number.
FREE = ("seed", "study", "curves", "draw", "export", "mesh", "remat", "remat_segments")
FREE += ("attention", "features", "data.dir")
FREE += ("data.eval_batch_size", "train.save_every", "train.log_every", "train.accumulate")


class Cell(NamedTuple):
    """A method on a data set: a run a seed.

    Attributes:
        failed: runs of other seeds that did not finish.
        metric: what `scores` are, in percent, such as "accuracy".
    """

    runs: tuple[Run, ...]
    failed: tuple[Run, ...]
    metric: str

    @property
    def scores(self) -> dict[int, float]:
        """The metric by seed."""
        return {run.seed: run.score(self.metric) for run in self.runs}

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.scores.values())))

    @property
    def std(self) -> float | None:
        """The population's standard deviation, as in the papers; None of one seed."""
        return spread(list(self.scores.values()))

    @property
    def trainable(self) -> float:
        return float(np.mean([run.result["trainable"] for run in self.runs]))

    @property
    def percent(self) -> float:
        return float(np.mean([run.result["percent"] for run in self.runs]))

    @property
    def published(self) -> float | None:
        return self.runs[0].expected.get("value")

    @property
    def tolerance(self) -> float | None:
        return self.runs[0].expected.get("tolerance")

    @property
    def verdict(self) -> str:
        """ "within", "above" or "below" the published value; "" without a tolerance."""
        if self.published is None or self.tolerance is None:
            return ""
        difference = self.mean - self.published
        if abs(difference) <= self.tolerance + 1e-9:
            return "within"
        return "above" if difference > 0 else "below"


class Table(NamedTuple):
    """The methods and data sets of one benchmark.

    Attributes:
        methods: those with the fewest trainable parameters first.
        cells: by method and column's name.
        notice: what a reader must know of why these runs are a table; "": nothing.
    """

    suite: str
    title: str
    columns: tuple[Column, ...]
    methods: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    notice: str = ""

    def row(self, method: str) -> dict[str, Cell]:
        """Return the cells of a method that have a number, by the column's name."""
        cells = {c.name: self.cells.get((method, c.name)) for c in self.columns}
        return {name: cell for name, cell in cells.items() if cell is not None and cell.runs}

    @property
    def shared(self) -> list[str]:
        """The data sets on which every method has a number."""
        rows = [self.row(method) for method in self.methods]
        return [c.name for c in self.columns if all(c.name in row for row in rows)]


def tables(runs: Iterable[Run], group_by: Sequence[str] = ()) -> list[Table]:
    """Return a table for each benchmark, and for each group of runs in it.

    Runs that cannot be compared are tables of their own, each with a notice.

    Args:
        group_by: kinds of `vpjax.report.comparability`, each value of which gets a table, or keys
            of the config, each value of which gets a row.

    Raises:
        UserError: if a name in `group_by` does not exist.
    """
    runs = [run for run in runs if run.status != "damaged"]
    lost = [run for run in runs if not (run.finished or run.is_trial)]
    keys = _row_keys(runs, group_by)
    found: dict[tuple[str, ...], list[Pair]] = {}
    for run, column in split_off_trials(runs)[0]:
        shared = comparability.benchmark_facts(run)
        parts = [shared[kind] for kind in group_by if kind in KINDS]
        found.setdefault((column.suite, *parts), []).append((run, column))
    order = [*BENCHMARKS, ""]
    out = []
    for (suite, *asked), pairs in sorted(found.items(), key=lambda item: order.index(item[0][0])):
        for group in comparability.separated(pairs, suite in AVERAGED):
            title = ", ".join([TITLES[suite], *asked, *group.values])
            out.append(_table(group, suite, title, lost, keys))
    return out


def _row_keys(runs: Sequence[Run], group_by: Sequence[str]) -> list[str]:
    keys = [key for key in group_by if key not in KINDS]
    known = {key for run in runs for key in configs.flat(run.config)} if keys else set()
    for key in keys:
        if key not in known:
            raise unknown("name in --group_by", key, {*KINDS, *known})
    return keys


def split_off_trials(runs: Iterable[Run]) -> tuple[list[tuple[Run, Column]], list[Run]]:
    """Return finished runs with their columns, and the runs that only served to choose settings.

    The second are trials of `tune`, and runs evaluated on val only, in a benchmark that other
    runs were tested in.
    """
    runs = list(runs)
    trials = [run for run in runs if run.is_trial]
    good = [run for run in runs if run.finished and not run.is_trial]
    pairs = list(zip(good, comparability.assign_columns(good), strict=True))
    tested = {column.suite for run, column in pairs if run.split == "test"}
    served = {run for run, column in pairs if run.split == "val" and column.suite in tested}
    return [p for p in pairs if p[0] not in served], trials + [r for r in good if r in served]


def _table(group: Group, suite: str, title: str, lost: Sequence[Run], keys: Sequence[str]) -> Table:
    pairs = group.pairs
    runs = [run for run, _ in pairs]
    columns = _ordered(suite, [column for _, column in pairs])
    labels, said = told_apart(pairs, row_names([*runs, *lost], keys))
    groups: dict[tuple[str, str], tuple[list[Run], list[Run]]] = {}
    for run, column in pairs:
        groups.setdefault((labels[run], column.name), ([], []))[0].append(run)
    for run in lost:  # counted where runs of the same method and data are
        for place, (good, bad) in groups.items():
            if labels[run] == place[0] and run.config.data.name == good[0].config.data.name:
                bad.append(run)
    metric = {c.name: c.metric for c in columns}
    cells = {k: _cell(good, bad, metric[k[1]]) for k, (good, bad) in groups.items()}
    sizes = {m: np.mean([c.trainable for k, c in cells.items() if k[0] == m]) for m, _ in cells}
    methods = tuple(sorted(sizes, key=sizes.__getitem__))
    notice = " ".join(text for text in (group.notice, said) if text)
    return Table(suite, title, columns, methods, cells, notice)


def _ordered(suite: str, columns: Sequence[Column]) -> tuple[Column, ...]:
    """Return distinct columns, in the benchmark's order."""
    found = {column.name: column for column in columns}
    order = [name for name in BENCHMARKS.get(suite, found) if name in found]
    return tuple(found[name] for name in order)


def row_names(runs: Sequence[Run], keys: Sequence[str] = ()) -> dict[Run, str]:
    """Return each run's row: its label, its class if two share the label, and values of `keys`."""
    classes: dict[str, set[str]] = {}
    for run in runs:
        if run.finished:
            classes.setdefault(run.label, set()).add(run.method)
    out = {}
    for run in runs:
        several = len(classes.get(run.label, ())) > 1
        out[run] = f"{run.label} ({run.method})" if several else run.label
        flat = configs.flat(run.config) if keys else {}
        out[run] += "".join(f", {key.rpartition('.')[2]} {flat.get(key, '-')}" for key in keys)
    return out


def told_apart(pairs: Sequence[Pair], labels: Mapping[Run, str]) -> tuple[dict[Run, str], str]:
    """Return the rows of runs such that a cell holds seeds of one config, and a notice.

    Runs of one name whose configs differ get the keys that do in their names; of runs that are
    the same experiment with the same seed, those after the first get their folders'.

    Args:
        labels: the rows as the runs are called; also of runs in no table.
    """
    out, notes = dict(labels), []
    cells: dict[tuple[str, str], list[Run]] = {}
    for run, column in pairs:
        cells.setdefault((labels[run], column.name), []).append(run)
    for (label, name), found in cells.items():
        plain = {run: _experiment(run) for run in found}
        every = sorted({key for config in plain.values() for key in config})
        changed = [k for k in every if len({repr(config.get(k)) for config in plain.values()}) > 1]
        for run in found if changed else ():
            values = (f"{k.rpartition('.')[2]} {plain[run].get(k, '-')}" for k in changed[:SHOWN])
            out[run] = f"{label}, {', '.join(values)}"
            if len(changed) > SHOWN:  # the rest may differ where these agree
                out[run] += f" [{run.folder.parent.name}]"
        if changed:
            more = f" and {len(changed) - SHOWN} more" * (len(changed) > SHOWN)
            notes.append(
                f"Runs called {label} on {name} are not seeds of one config: they differ in "
                f"{', '.join(changed[:SHOWN])}{more}, and are rows of their own."
            )
    seen: dict[tuple[str, str, int], Run] = {}
    for run, column in sorted(pairs, key=lambda pair: pair[0].seed):
        first = seen.setdefault((out[run], column.name, run.seed), run)
        if first is not run:
            notes.append(
                f"{first.name} and {run.name} are the same experiment with the same seed, "
                f"{run.seed}: the second is a row of its own, and in no mean of the first."
            )
            out[run] += f" [{run.name}]"
    return out, " ".join(notes)


def _cell(runs: Sequence[Run], failed: Sequence[Run], metric: str) -> Cell:
    runs = sorted(runs, key=lambda run: run.seed)
    return Cell(tuple(runs), tuple(failed), metric or runs[0].metric)


def _experiment(run: Run) -> dict[str, object]:
    """Return the keys of a config that can change a number."""
    free = tuple(f"{key}." for key in FREE)
    flat = configs.flat(run.config).items()
    return {k: v for k, v in flat if k not in FREE and not k.startswith(free)}
