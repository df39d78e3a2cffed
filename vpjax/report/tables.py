"""Group runs into tables: method x data set x seed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vpjax.core.errors import UserError, unknown
from vpjax.data.benchmarks import BENCHMARKS
from vpjax.report import comparability
from vpjax.report.comparability import KINDS, Column
from vpjax.report.run_folders import Run
from vpjax.runs import config as configs

TITLES = {"vtab": "VTAB-1k", "fgvc": "FGVC", "hta": "HTA", "inat": "iNaturalist"}
TITLES |= {"small": "Small data sets", "": "Other data sets"}
AVERAGED = ("vtab", "fgvc", "hta")  # benchmarks that are reported as a mean over data sets
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
        return float(np.std(list(self.scores.values()))) if len(self.runs) > 1 else None

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
    """

    suite: str
    title: str
    columns: tuple[Column, ...]
    methods: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]

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

    Args:
        group_by: kinds of `vpjax.report.comparability`, each value of which gets a table, or keys
            of the config, each value of which gets a row.

    Raises:
        UserError: if runs that cannot be compared would share a column, or seeds of different
            configs a cell; or if a name in `group_by` does not exist.
    """
    runs = [run for run in runs if run.status != "damaged"]
    lost = [run for run in runs if not (run.finished or run.is_trial)]
    keys = _row_keys(runs, group_by)
    found: dict[tuple[str, ...], list[tuple[Run, Column]]] = {}
    for run, column in split_off_trials(runs)[0]:
        shared = comparability.benchmark_facts(run)
        parts = [shared[kind] for kind in group_by if kind in KINDS]
        found.setdefault((column.suite, *parts), []).append((run, column))
    order = [*BENCHMARKS, ""]
    named = sorted(found.items(), key=lambda item: order.index(item[0][0]))
    return [_table(pairs, key, lost, keys) for key, pairs in named]


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


def _table(
    pairs: Sequence[tuple[Run, Column]],
    key: tuple[str, ...],
    lost: Sequence[Run],
    keys: Sequence[str],
) -> Table:
    suite, *parts = key
    runs = [run for run, _ in pairs]
    title = ", ".join([TITLES[suite], *parts])
    columns = _ordered(suite, [column for _, column in pairs])
    for column in columns:
        here = [(run, comparability.column_facts(run)) for run, c in pairs if c.name == column.name]
        comparability.check_comparable(here, f"on {column.name}")
    if suite in AVERAGED:
        shared = [(run, comparability.benchmark_facts(run)) for run in runs]
        comparability.check_comparable(shared, f"in {title}, whose means join them")
    labels = row_names([*runs, *lost], keys)
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
    return Table(suite, title, columns, tuple(sorted(sizes, key=sizes.__getitem__)), cells)


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


def _cell(runs: Sequence[Run], failed: Sequence[Run], metric: str) -> Cell:
    """Return a cell. Raises: UserError if the runs are not seeds of one config."""
    runs = sorted(runs, key=lambda run: run.seed)
    plain = [_experiment(run) for run in runs]
    for run, config in zip(runs[1:], plain[1:], strict=True):
        if changed := sorted(k for k in {*config, *plain[0]} if config.get(k) != plain[0].get(k)):
            values = [f"{k} {plain[0].get(k)!r} and {config.get(k)!r}" for k in changed[:5]]
            raise UserError(
                f"{runs[0].name} and {run.name} have the same name ({run.label}) and data, but are "
                f"not seeds of one config: {', '.join(values)}. --group_by={changed[0]} makes a "
                "row of each; or leave one of them out: name the folders to read with "
                "--runs=DIR,DIR."
            )
    for run, after in zip(runs, runs[1:], strict=False):
        if run.seed == after.seed:
            raise UserError(
                f"{run.name} and {after.name} are the same experiment with the same seed, "
                f"{run.seed}. Leave one of them out: name the folders to read with --runs=DIR,DIR."
            )
    return Cell(tuple(runs), tuple(failed), metric or runs[0].metric)


def _experiment(run: Run) -> dict[str, object]:
    """Return the keys of a config that can change a number."""
    free = tuple(f"{key}." for key in FREE)
    flat = configs.flat(run.config).items()
    return {k: v for k, v in flat if k not in FREE and not k.startswith(free)}
