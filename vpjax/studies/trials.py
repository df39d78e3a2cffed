"""What `--mode tune` will run: a grid of trials to choose from, then one final run a seed.

    <workdir>/select/lr=0.5,weight_decay=0.01   trains on data.train, is judged on data.val
    <workdir>/final/seed42                      trains on both, is told on data.test

A trial is a run like any other, in a folder named by what it tries; a grid that grows keeps what it
has. Its outcome is its result.json, or failed.json, which says why there is none.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vpjax.core.errors import Diverged, UserError, unknown
from vpjax.runs import config as configs
from vpjax.runs import workdir
from vpjax.runs.defaults import single_run

Cell = Mapping[str, Any]  # {"optim.lr": 0.5, ...}
SPLITS = ("trials", "devices")  # that several processes may share


class Trial(NamedTuple):
    """One run of the plan; `cell` is what it tries, {} of a final run."""

    name: str
    config: ConfigDict
    folder: Path
    cell: Cell

    @property
    def outcome(self) -> dict[str, Any] | None:
        """Returns the result, or {"status", "reason"} of a failure; None: not run yet."""
        if (result := workdir.read_result(self.folder)) is not None:
            return result
        error = workdir.read_failure(self.folder, final=False)
        if error is None:
            return None
        status = "diverged" if isinstance(error, Diverged) else "failed"
        return {"status": status, "reason": str(error)}


def check(config: ConfigDict) -> None:
    """Raises a UserError for a config that the protocol does not allow."""
    if not (config.data.test and config.data.val):
        raise UserError("--mode tune needs config.data.val, to choose on, and config.data.test")
    if not config.study.seeds or len(set(config.study.seeds)) < len(config.study.seeds):
        raise UserError(
            f"config.study.seeds is {config.study.seeds}; expected distinct seeds of final runs"
        )
    if config.train.select != "last" or config.train.patience or config.train.test_best:
        raise UserError(
            "--mode tune reports the last epoch of runs that have no val split: set train.select="
            "'last', train.patience=0, train.test_best=False"
        )
    if config.optim.schedule == "plateau":
        raise UserError("optim.schedule='plateau' needs a val split, which final runs do not have")
    if config.study.tune.split not in SPLITS:
        raise unknown("config.study.tune.split", config.study.tune.split, SPLITS)


def cells(config: ConfigDict) -> list[Cell]:
    """Returns every combination of `config.study.tune.grid`, the values of the last key fastest.

    Raises: UserError if a key has no values, or is none of the config.
    """
    axes = dict(_axes(config.study.tune.grid.to_dict(), ""))
    known = configs.flat(config)
    for key, values in axes.items():
        if not isinstance(values, tuple | list) or not values:
            raise UserError(
                f"config.study.tune.grid.{key} is {values!r}; expected values, such as (1.,)"
            )
        if key not in known and f"{key.partition('.')[0]}.name" not in axes:
            raise unknown("key in config.study.tune.grid", key, known)
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _axes(grid: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in grid.items():
        where = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            yield from _axes(value, where)
        else:
            yield where, value


def selection(config: ConfigDict, folder: Path) -> list[Trial]:
    """Returns a trial for every cell of the grid; none where there is nothing to choose from."""
    found = cells(config)
    if len(found) < 2:
        return []
    bare = single_run(config)
    bare.data.test = ""
    bare.curves = bare.draw = False  # hundreds of runs that nobody looks at
    out = []
    for cell in found:
        name = label(cell, found[0])
        run = configs.merged(bare, changes(cell, config.study.tune.also))
        out.append(Trial(name, run, folder / "select" / name, cell))
    return out


def finals(config: ConfigDict, cell: Cell, folder: Path) -> list[Trial]:
    """Returns a run a seed, of the chosen cell, on all that is not the test split."""
    chosen = configs.merged(single_run(config), changes(cell, config.study.tune.also))
    chosen.data.train = config.study.tune.train or f"{config.data.train}+{config.data.val}"
    chosen.data.val = ""
    out = []
    for seed in config.study.seeds:
        run = configs.merged(chosen, {"seed": seed})
        out.append(Trial(f"seed{seed}", run, folder / "final" / f"seed{seed}", {}))
    return out


def changes(cell: Cell, also: ConfigDict) -> dict[str, Any]:
    """Returns the nested changes that a cell stands for, with what goes with its values."""
    out: dict[str, Any] = {}
    for key, value in cell.items():
        section, _, name = key.rpartition(".")
        more = also.get(section, ConfigDict()).get(name, ConfigDict()).get(str(value), ConfigDict())
        _put(out, {section: {name: value}} if section else {name: value})
        _put(out, more.to_dict())
    return out


def _put(out: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, Mapping):
            _put(out.setdefault(key, {}), value)
        else:
            out[key] = value


def label(cell: Cell, keys: Iterable[str]) -> str:
    """Returns "lr=0.5,weight_decay=0.01": a folder's name. Keys alike at the end are told whole."""
    last = [key.rpartition(".")[2] for key in keys]
    short = {k: n if last.count(n) == 1 else k for k, n in zip(keys, last, strict=True)}
    return ",".join(f"{short[k]}={v}" for k, v in cell.items()).replace("/", "_")
