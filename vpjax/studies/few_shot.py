"""CoOp's protocols, which `ablate` runs: accuracy by number of images a class, and base to new.

    python main.py ablate --config configs/few_shot.py --workdir DIR        study.name "few_shot"
    python main.py ablate --config configs/base_to_new.py --workdir DIR     study.name "base_to_new"

Methods are the cells of `config.study.compare`, data sets those of `config.study.suite`, {label:
changes}; without any the recipe's own is the only one. Each is trained with every seed, which draws
the images, in DIR/<data set>/<method>/... A run that is finished is read. DIR then holds

    few_shot.md, .csv, .json, .png    test accuracy by shots (`config.study.shots`), and its mean
                                      over data sets
    base_to_new.md, .csv, .json       trained on the first half of the classes (base): accuracy on
                                      the test images of base, and of the rest (new), each among its
                                      own classes; H is the harmonic mean of the two

H of several data sets is that of the averages over them, as published (Zhou et al. 2022, arXiv
2203.05557). A method that cannot be used for other classes has no number for new.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vpjax.core import files, forms
from vpjax.core.errors import UserError
from vpjax.core.table import mean_std, spread, table, write_csv
from vpjax.report.finish import write_report
from vpjax.report.plots.shots import curves
from vpjax.report.plots.style import save
from vpjax.runs import config as configs
from vpjax.runs.defaults import single_run
from vpjax.runs.reopen import NotForOtherClasses
from vpjax.runs.scores import evaluate_run
from vpjax.studies.cells import cell_labels, try_to_train
from vpjax.studies.lines import RunLines, ending

log = logging.getLogger(__name__)

MEAN = "mean"  # of data sets, in tables
NEW = "new.json"  # in a run's folder: its accuracy on the new classes
NEW_FORM = {"accuracy": (*forms.NUMBER, None)}
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Place:
    """A run of a study: a method on a data set with so many shots and a seed."""

    data: str
    label: str
    shots: int
    seed: int
    config: ConfigDict
    folder: Path

    @property
    def name(self) -> str:
        """Data set, method, shots and seed."""
        where = f"{self.data}, " if self.data else ""
        return f"{where}{self.label}, {self.shots} shots, seed {self.seed}"


def few_shot(config: ConfigDict, folder: Path) -> list[Row]:
    """Train every method with every number of shots; write and return a row for each of them.

    Raises:
        UserError: if there is nothing to run; and, when all else is done, if a run failed.
    """
    places = list(all_places(config, folder, config.study.shots, {}))
    return _run(places, folder, "few_shot", _trained, _write_curves)


def base_to_new(config: ConfigDict, folder: Path) -> list[Row]:
    """Train every method on the base classes and evaluate it on both; write and return the rows.

    Raises:
        UserError: as `few_shot` does.
    """
    places = list(all_places(config, folder, (config.data.shots,), {"data": {"classes": "base"}}))
    return _run(places, folder, "base_to_new", _trained_on_base, _write_base_to_new)


STUDIES = {"few_shot": few_shot, "base_to_new": base_to_new}


def all_places(
    config: ConfigDict, folder: Path, shots: Sequence[int], changes: dict[str, Any]
) -> Iterator[Place]:
    """Yield the runs of a study: data sets, then methods, shots and seeds.

    Args:
        config: of the study.
        folder: of the study.
        shots: numbers of images a class.
        changes: to every run.

    Raises:
        UserError: for a study without test split, seeds, methods or shots, or a cell that does not
            exist.
    """
    labels = cell_labels(config)
    if not (config.study.seeds and labels and shots):
        raise UserError("a study needs study.compare (methods), study.seeds, and study.shots")
    if not config.data.test:
        raise UserError("data.test is empty; a study of shots reports the test split")
    for data in config.study.suite or ("",):
        own = configs.merged(single_run(config), config.study.suite[data] if data else {})
        for label in labels:
            cell = configs.merged(configs.merged(own, config.study.compare[label]), changes)
            cell.study.label = label
            for count in shots:
                for seed in config.study.seeds:
                    run = configs.merged(cell, {"data": {"shots": count}, "seed": seed})
                    where = folder / data / label
                    where = where / f"shots{count}" if len(shots) > 1 else where
                    yield Place(data, label, count, seed, run, where / f"seed{seed}")


def _run(
    places: list[Place],
    folder: Path,
    study: str,
    one: Callable[[Place], Row],
    write: Callable[[list[Row], Path], None],
) -> list[Row]:
    """Run all places, each a line on the screen; write the tables after each."""
    log.info("runs      %d", len(places))
    lines, rows = RunLines([(place.label, place.folder) for place in places]), []
    for place in places:
        row = {"data": place.data, "method": place.label, "shots": place.shots, "seed": place.seed}
        with lines.one(place.name) as say:
            found = one(place)
            say(found.pop("ending"))
        rows.append(row | found)
        files.write_json(folder / f"{study}.json", rows)
        write_csv(folder / f"{study}.csv", rows)
        write(rows, folder)
    write_report(folder)
    log.info("\n%s", (folder / f"{study}.md").read_text(encoding="utf-8"))
    log.info("files     %s", folder)
    if failed := [r for r in rows if r.get("failed")]:
        raise UserError(
            f"{len(failed)} of {len(rows)} runs failed; the rest is in {folder}. The first, "
            f"{failed[0]['method']} with seed {failed[0]['seed']}: {failed[0]['failed']}"
        )
    return rows


def _trained(place: Place) -> Row:
    """Train one run; return its accuracy, or why it failed."""
    result = try_to_train(place.config, place.folder)
    if isinstance(result, UserError):
        return {"failed": " ".join(str(result).split()), "ending": "failed"}
    metric = f"test_{result['metric']}"
    return {"accuracy": result[metric], "trainable": result["trainable"], "ending": ending(result)}


def _trained_on_base(place: Place) -> Row:
    """Train one run on the base classes, and evaluate it on both."""
    row = _trained(place)
    if row.get("failed"):
        return row
    if (found := read_new(place.folder)) is None:
        new = configs.merged(place.config, {"data": {"classes": "new"}})
        try:
            result = evaluate_run(place.folder, new)
            found = {"accuracy": result[f"test_{result['metric']}"]}
        except NotForOtherClasses as e:
            found = {"accuracy": None, "reason": str(e)}
        files.write_json(place.folder / NEW, found)
    base = row.pop("accuracy")
    return {"base": base, "new": found["accuracy"], **row}


def read_new(folder: Path) -> Row | None:
    """Return what a run reached on the new classes; None if it is not known, or damaged."""
    try:
        return forms.read(folder / NEW, NEW_FORM, "The run is evaluated on them again.")
    except forms.Damaged as error:
        log.warning("warning   %s", error)
        return None


def harmonic_mean(base: float | None, new: float | None) -> float | None:
    """Return 2 / (1 / base + 1 / new), 0 if one is 0; None if one is not known."""
    if base is None or new is None:
        return None
    return 2 * base * new / (base + new) if base and new else 0.0


def means(rows: Sequence[Row], key: str) -> tuple[float | None, float | None]:
    """Return mean and standard deviation of a column; None where no row has it."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return (float(np.mean(values)), spread(values)) if values else (None, None)


def _averaged(rows: Sequence[Row], key: str) -> float | None:
    """Return the average over data sets of the means over seeds; None if one has none."""
    found = [means(own, key)[0] for own in _by(rows, "data").values()]
    return None if None in found else float(np.mean(found))


def _by(rows: Sequence[Row], key: str) -> dict[Any, list[Row]]:
    out: dict[Any, list[Row]] = {}
    for row in rows:
        out.setdefault(row[key], []).append(row)
    return out


def _write_base_to_new(rows: list[Row], folder: Path) -> None:
    files.write_text(folder / "base_to_new.md", base_to_new_table(rows) + "\n")


def base_to_new_table(rows: Sequence[Row]) -> str:
    """Return base, new and H of each method by data set, and of the averages, as a table."""
    lines = []
    for method, own in _by(rows, "method").items():
        sets = _by(own, "data")
        for data, found in sets.items():
            base, new = means(found, "base"), means(found, "new")
            h = harmonic_mean(base[0], new[0])
            seeds = str(sum(r.get("base") is not None for r in found))
            lines.append([method, data or "-", mean_std(*base), mean_std(*new), mean_std(h), seeds])
        if len(sets) > 1:
            base, new = _averaged(own, "base"), _averaged(own, "new")
            h = harmonic_mean(base, new)
            name = f"{MEAN} of {len(sets)}"
            lines.append([method, name, mean_std(base), mean_std(new), mean_std(h), ""])
    header = ["method", "data", "base (%)", "new (%)", "H", "seeds"]
    return table(header, lines, "llrrrr")


def _write_curves(rows: list[Row], folder: Path) -> None:
    files.write_text(folder / "few_shot.md", few_shot_table(rows) + "\n")
    lines = {
        method: [
            (shots, _averaged(found, "accuracy")) for shots, found in _by(own, "shots").items()
        ]
        for method, own in _by(rows, "method").items()
    }
    if any(value is not None for line in lines.values() for _, value in line):
        number = len({row["data"] for row in rows})
        save(curves(lines, number), folder / "few_shot.png")


def few_shot_table(rows: Sequence[Row]) -> str:
    """Return the accuracy of each method by data set and shots, and its mean, as a table."""
    shots, lines = list(_by(rows, "shots")), []
    for method, own in _by(rows, "method").items():
        sets = _by(own, "data")
        for data, found in sets.items():
            by_shots = _by(found, "shots")
            cells = [mean_std(*means(by_shots.get(k, []), "accuracy")) for k in shots]
            lines.append([method, data or "-", *cells])
        if len(sets) > 1:
            by_shots = _by(own, "shots")
            cells = [mean_std(_averaged(by_shots[k], "accuracy")) for k in shots if k in by_shots]
            cells += ["-"] * (len(shots) - len(cells))
            lines.append([method, f"{MEAN} of {len(sets)}", *cells])
    header = ["method", "data", *(f"{k} shot{'s' * (k > 1)} (%)" for k in shots)]
    return table(header, lines, "llr")
