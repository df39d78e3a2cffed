"""The cells of a comparison or an ablation: labelled changes to a config, each run with every seed.

A recipe lists them as {label: changes to the config} in `config.study.compare`; each run has a
folder of its own, <workdir>/<label>/seed<n>. A run that is finished is read, not run again.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from vpjax.core.errors import UserError, unknown
from vpjax.report.finish import draw_results
from vpjax.runs import config as configs
from vpjax.runs.defaults import single_run
from vpjax.runs.fit import fit

log = logging.getLogger(__name__)


class CellRun(NamedTuple):
    """One run of a cell."""

    label: str
    seed: int
    config: ConfigDict
    folder: Path


def cell_labels(config: ConfigDict) -> tuple[str, ...]:
    """Return the labels to run: `config.study.cells`, or all of `config.study.compare` by name.

    Raises:
        UserError: if there is no cell of a label.
    """
    for label in config.study.cells:
        if label not in config.study.compare:
            raise unknown("cell", label, config.study.compare)
    return tuple(config.study.cells or config.study.compare)


def cell_runs(config: ConfigDict, label: str, folder: Path) -> list[CellRun]:
    """Return the runs of a cell, one for each seed.

    Raises:
        UserError: if its changes do not fit the config.
    """
    changed = configs.merged(single_run(config), config.study.compare[label])
    runs = []
    for seed in config.study.seeds:
        single = configs.merged(changed, {"seed": seed})
        runs.append(CellRun(label, seed, single, folder / label / f"seed{seed}"))
    return runs


def all_runs(config: ConfigDict, folder: Path) -> Iterator[CellRun]:
    """Yield the runs of all cells.

    Raises:
        UserError: if there is no cell of a label, or its changes do not fit the config.
    """
    for label in cell_labels(config):
        yield from cell_runs(config, label, folder)


def train(config: ConfigDict, folder: Path) -> dict[str, Any]:
    """Train one run in `folder`, with its pictures; return the result."""
    return fit(config, folder, finish=draw_results)


def try_to_train(config: ConfigDict, folder: Path) -> dict[str, Any] | UserError:
    """Return the result of `train`, or the error of a user or of the device that ended it."""
    try:
        return train(config, folder)
    except UserError as e:
        log.warning("failed    %s", e)
        return e
    except jax.errors.JaxRuntimeError as e:  # out of memory, most of the time
        log.warning("failed    %s", e)
        return UserError(f"the device failed: {(str(e).splitlines() or ['?'])[0]}")
