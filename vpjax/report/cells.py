"""Runs as tables: method x data set x seed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vpjax.core.errors import UserError, unknown
from vpjax.data.benchmarks import BENCHMARKS
from vpjax.report import sources
from vpjax.report.runs import Run
from vpjax.report.sources import KINDS, Column
from vpjax.runs import config as configs

TITLES = {"vtab": "VTAB-1k", "fgvc": "FGVC", "hta": "HTA", "inat": "iNaturalist"}
TITLES |= {"small": "Small data sets", "": "Other data sets"}
AVERAGED = ("vtab", "fgvc", "hta")  # suites that are told by a mean
WIDE = 10.0  # points between seeds that a mean should not hide

# Config keys that may differ between seeds of one cell: they name the run, or how it is computed,
# and not what.
FREE = ("seed", "study", "draw", "export", "mesh", "remat", "remat_segments", "attention")
FREE += ("features", "data.dir")
FREE += ("data.eval_batch_size", "train.save_every", "train.log_every", "train.accumulate")


class Cell(NamedTuple):
    """A method on a data set; accuracies in percent, one a seed."""

    runs: tuple[Run, ...]
    failed: tuple[Run, ...]
    metric: str

    @property
    def scores(self) -> dict[int, float]:
        return {run.seed: run.score(self.metric) for run in self.runs}

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.scores.values())))

    @property
    def std(self) -> float | None:
        """Returns the population's standard deviation, as in the papers; None of one seed."""
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
        """Returns "within", "above" or "below" the published value; "" without a tolerance."""
        if self.published is None or self.tolerance is None:
            return ""
        difference = self.mean - self.published
        if abs(difference) <= self.tolerance + 1e-9:
            return "within"
        return "above" if difference > 0 else "below"


class Table(NamedTuple):
    """What stands together."""

    suite: str
    title: str
    columns: tuple[Column, ...]
    methods: tuple[str, ...]  # the fewest trainable parameters first
    cells: Mapping[tuple[str, str], Cell]  # by method and column's name

    def row(self, method: str) -> dict[str, Cell]:
        """Returns the cells of a method that have a number."""
        cells = {c.name: self.cells.get((method, c.name)) for c in self.columns}
        return {name: cell for name, cell in cells.items() if cell is not None and cell.runs}

    @property
    def shared(self) -> list[str]:
        """Returns the data sets on which every method has a number."""
        rows = [self.row(method) for method in self.methods]
        return [c.name for c in self.columns if all(c.name in row for row in rows)]


def tables(runs: Iterable[Run], by: Sequence[str] = ()) -> list[Table]:
    """Returns a table a benchmark, and of each what `by` separates.

    `by` names kinds of sources, a table each, or keys of the config, a row each.
    Raises: UserError if runs of different sources, or seeds of different configs, would share a
    column or a cell; or if `by` names what does not exist.
    """
    runs = [run for run in runs if run.status != "damaged"]
    lost = [run for run in runs if not (run.finished or run.selecting)]
    keys = _row_keys(runs, by)
    found: dict[tuple[str, ...], list[tuple[Run, Column]]] = {}
    for run, column in told(runs)[0]:
        shared = sources.common(run)
        parts = [shared[kind] for kind in by if kind in KINDS]
        found.setdefault((column.suite, *parts), []).append((run, column))
    order = [*BENCHMARKS, ""]
    named = sorted(found.items(), key=lambda item: order.index(item[0][0]))
    return [_table(pairs, key, lost, keys) for key, pairs in named]


def _row_keys(runs: Sequence[Run], by: Sequence[str]) -> list[str]:
    keys = [key for key in by if key not in KINDS]
    known = {key for run in runs for key in configs.flat(run.config)} if keys else set()
    for key in keys:
        if key not in known:
            raise unknown("name in --by", key, {*KINDS, *known})
    return keys


def told(runs: Iterable[Run]) -> tuple[list[tuple[Run, Column]], list[Run]]:
    """Returns finished runs with their columns, and all that only served to choose settings.

    Those are trials of `--mode tune`, and what has val alone in a benchmark that others were tested
    in.
    """
    runs = list(runs)
    trials = [run for run in runs if run.selecting]
    good = [run for run in runs if run.finished and not run.selecting]
    pairs = list(zip(good, sources.assign(good), strict=True))
    tested = {column.suite for run, column in pairs if run.split == "test"}
    served = {run for run, column in pairs if run.split == "val" and column.suite in tested}
    return [p for p in pairs if p[0] not in served], trials + [r for r in good if r in served]


def _table(pairs, key, lost, keys) -> Table:
    suite, *parts = key
    runs = [run for run, _ in pairs]
    title = ", ".join([TITLES[suite], *parts])
    columns = _ordered(suite, [column for _, column in pairs])
    for column in columns:
        here = [(run, sources.facts(run)) for run, c in pairs if c.name == column.name]
        sources.check(here, f"on {column.name}")
    if suite in AVERAGED:
        sources.check([(r, sources.common(r)) for r in runs], f"in {title}, whose means join them")
    labels = names([*runs, *lost], keys)
    groups: dict[tuple[str, str], tuple[list[Run], list[Run]]] = {}
    for run, column in pairs:
        groups.setdefault((labels[run], column.name), ([], []))[0].append(run)
    for run in lost:  # belongs where runs of the same method and data are
        for place, (good, bad) in groups.items():
            if labels[run] == place[0] and run.config.data.name == good[0].config.data.name:
                bad.append(run)
    metric = {c.name: c.metric for c in columns}
    cells = {k: _cell(good, bad, metric[k[1]]) for k, (good, bad) in groups.items()}
    sizes = {m: np.mean([c.trainable for k, c in cells.items() if k[0] == m]) for m, _ in cells}
    return Table(suite, title, columns, tuple(sorted(sizes, key=sizes.__getitem__)), cells)


def _ordered(suite: str, columns: Sequence[Column]) -> tuple[Column, ...]:
    """Returns distinct columns, in the benchmark's order."""
    found = {column.name: column for column in columns}
    order = [name for name in BENCHMARKS.get(suite, found) if name in found]
    return tuple(found[name] for name in order)


def names(runs: Sequence[Run], keys: Sequence[str] = ()) -> dict[Run, str]:
    """Returns what rows are called: label, its class if two share the label, values of `keys`."""
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
    """Raises: UserError if the runs are not seeds of one config."""
    runs = sorted(runs, key=lambda run: run.seed)
    plain = [_experiment(run) for run in runs]
    for run, config in zip(runs[1:], plain[1:], strict=True):
        if changed := sorted(k for k in {*config, *plain[0]} if config.get(k) != plain[0].get(k)):
            values = [f"{k} {plain[0].get(k)!r} and {config.get(k)!r}" for k in changed[:5]]
            raise UserError(
                f"{runs[0].name} and {run.name} have the same name ({run.label}) and data, but are "
                f"no seeds of one config: {', '.join(values)}. --by={changed[0]} makes a row of "
                "each; or leave one of them out: name the folders to read with --runs=DIR,DIR."
            )
    for run, after in zip(runs, runs[1:], strict=False):
        if run.seed == after.seed:
            raise UserError(
                f"{run.name} and {after.name} are the same experiment with the same seed, "
                f"{run.seed}. Leave one of them out: name the folders to read with --runs=DIR,DIR."
            )
    return Cell(tuple(runs), tuple(failed), metric)


def _experiment(run: Run) -> dict[str, object]:
    free = tuple(f"{key}." for key in FREE)
    flat = configs.flat(run.config).items()
    return {k: v for k, v in flat if k not in FREE and not k.startswith(free)}
