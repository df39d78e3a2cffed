"""The runs of `tune`: a grid of trials to choose from, then one final run for each seed.

    <workdir>/select/lr=0.5,weight_decay=0.01   trains on data.train, is evaluated on data.val
    <workdir>/final/seed42                      trains on both, is evaluated on data.test

A trial is a run like any other, in a folder named after its parameters, so a grid that grows keeps
its finished trials. The outcome is result.json, or failed.json with the reason why there is none.
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

Params = Mapping[str, Any]  # a point of the grid: {"optim.lr": 0.5, ...}
SPLITS = ("trials", "devices")  # what several processes may share out


class Trial(NamedTuple):
    """One run; `params` are its point of the grid, {} of a final run."""

    name: str
    config: ConfigDict
    folder: Path
    params: Params

    @property
    def outcome(self) -> dict[str, Any] | None:
        """The result, or {"status", "reason"} of a failure; None: not run yet."""
        if (result := workdir.read_result(self.folder)) is not None:
            return result
        error = workdir.read_failure(self.folder, final=False)
        if error is None:
            return None
        status = "diverged" if isinstance(error, Diverged) else "failed"
        return {"status": status, "reason": str(error)}


def check(config: ConfigDict) -> None:
    """Check that a config is possible for `tune`.

    Raises:
        UserError: if the test split could be read before the choice, or a key has no valid value.
    """
    if not (config.data.test and config.data.val):
        raise UserError("tune needs config.data.val, to choose on, and config.data.test")
    if not config.study.seeds or len(set(config.study.seeds)) < len(config.study.seeds):
        raise UserError(
            f"config.study.seeds is {config.study.seeds}; expected distinct seeds of final runs"
        )
    if config.train.select != "last" or config.train.patience or config.train.test_best:
        raise UserError(
            "tune reports the last epoch of runs that have no val split: set train.select='last', "
            "train.patience=0, train.test_best=False"
        )
    if config.optim.schedule == "plateau":
        raise UserError("optim.schedule='plateau' needs a val split, which final runs do not have")
    if config.study.tune.split not in SPLITS:
        raise unknown("config.study.tune.split", config.study.tune.split, SPLITS)


def grid(config: ConfigDict) -> list[Params]:
    """Return every combination of `config.study.tune.grid`, the values of the last key fastest.

    Raises:
        UserError: if a key has no values, or is not a key of the config.
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


def _axes(values: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        where = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            yield from _axes(value, where)
        else:
            yield where, value


def selection(config: ConfigDict, folder: Path) -> list[Trial]:
    """Return a trial for every point of the grid; none if there is only one point."""
    points = grid(config)
    if len(points) < 2:
        return []
    base = single_run(config)
    base.data.test = ""
    base.curves = base.draw = False  # for hundreds of runs that nobody looks at
    out = []
    for params in points:
        name = trial_name(params, points[0])
        run = configs.merged(base, changes(params, config.study.tune.also))
        out.append(Trial(name, run, folder / "select" / name, params))
    return out


def finals(config: ConfigDict, params: Params, folder: Path) -> list[Trial]:
    """Return the final runs with the chosen parameters, one for each seed, on train and val."""
    chosen = configs.merged(single_run(config), changes(params, config.study.tune.also))
    chosen.data.train = config.study.tune.train or f"{config.data.train}+{config.data.val}"
    chosen.data.val = ""
    out = []
    for seed in config.study.seeds:
        run = configs.merged(chosen, {"seed": seed})
        out.append(Trial(f"seed{seed}", run, folder / "final" / f"seed{seed}", {}))
    return out


def changes(params: Params, also: ConfigDict) -> dict[str, Any]:
    """Return a point of the grid as nested changes to the config.

    Args:
        also: `config.study.tune.also`, further changes that go with a value.
    """
    out: dict[str, Any] = {}
    for key, value in params.items():
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


def trial_name(params: Params, keys: Iterable[str]) -> str:
    """Return the name of a trial's folder: "lr=0.5,weight_decay=0.01".

    Keys lose their section where that leaves them distinct.
    """
    last = [key.rpartition(".")[2] for key in keys]
    short = {k: n if last.count(n) == 1 else k for k, n in zip(keys, last, strict=True)}
    return ",".join(f"{short[k]}={v}" for k, v in params.items()).replace("/", "_")
