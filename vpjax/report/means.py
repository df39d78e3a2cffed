"""Means over a benchmark's data sets, and ranks of methods.

A mean has a value only where every data set of it was measured. VTAB-1k has two means that differ
by points for the same runs: over its 19 tasks, and over the means of its three groups.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vpjax.data.benchmarks import BENCHMARKS
from vpjax.report.tables import AVERAGED, Cell, Table


class Mean(NamedTuple):
    """A mean over `of` data sets, of which `have` were measured; without all it has no value."""

    name: str
    have: int
    of: int
    value: float | None = None
    std: float | None = None
    published: float | None = None


def means(table: Table, method: str) -> list[Mean]:
    """Return a method's means: of each group, of all data sets, of the groups' means."""
    if table.suite not in AVERAGED:
        return []
    suite, row = BENCHMARKS[table.suite], table.row(method)
    groups: dict[str, list[str]] = {}
    for data in suite.values():
        groups.setdefault(data.group, []).append(data.name)
    noun = "tasks" if table.suite == "vtab" else "data sets"
    every = _mean(f"mean of {len(suite)} {noun}", [[row.get(name)] for name in suite])
    if len(groups) == 1:
        return [every]
    parts = [_mean(g, [[row.get(n)] for n in names]) for g, names in groups.items()]
    cells = [[row.get(n) for n in names] for names in groups.values()]
    of_groups = _mean(f"mean of {len(groups)} groups", cells)
    return [*parts, every, of_groups]


def _mean(name: str, parts: Sequence[Sequence[Cell | None]]) -> Mean:
    """Average within parts, then over them."""
    cells = [cell for part in parts for cell in part]
    have = sum(cell is not None for cell in cells)
    if have < len(cells):
        return Mean(name, have, len(cells))
    over = lambda f: float(np.mean([np.mean([f(c) for c in part]) for part in parts]))  # noqa: E731
    seeds = set(cells[0].scores)
    paired = len(seeds) > 1 and all(set(c.scores) == seeds for c in cells)
    std = float(np.std([over(lambda c, s=s: c.scores[s]) for s in seeds])) if paired else None
    all_published = all(c.published is not None for c in cells)
    published = over(lambda c: c.published) if all_published else None
    return Mean(name, have, len(cells), over(lambda c: c.mean), std, published)


def overall(table: Table) -> tuple[str, dict[str, Mean]]:
    """Return the name of the mean that methods are compared by, and its value for each method.

    It is the benchmark's own where all methods have it, else over the data sets that all have.
    """
    complete = {m: found[-1] for m in table.methods if (found := means(table, m))}
    if complete and all(m.value is not None for m in complete.values()):
        return next(iter(complete.values())).name, complete
    shared = table.shared
    if not shared:
        return "", {}
    name = (
        shared[0] if len(shared) == 1 else f"mean of the {len(shared)} data sets all methods have"
    )
    rows = {m: table.row(m) for m in table.methods}
    return name, {m: _mean(name, [[row[n]] for n in shared]) for m, row in rows.items()}


def ranks(table: Table) -> np.ndarray:
    """Return the rank of each method on each data set (methods x data sets).

    1 is the best, NaN: no number. Methods with equal numbers share the mean of their ranks.
    """
    out = np.full((len(table.methods), len(table.columns)), np.nan)
    rows = [table.row(method) for method in table.methods]
    for j, column in enumerate(table.columns):
        have = [i for i, row in enumerate(rows) if column.name in row]
        values = np.array([rows[i][column.name].mean for i in have])
        for i, value in zip(have, values, strict=True):
            out[i, j] = 1 + np.sum(values > value) + (np.sum(values == value) - 1) / 2
    return out
