"""Run folders, and what each says of itself."""

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpjax.core import files
from vpjax.core.errors import Diverged, UserError
from vpjax.runs import config as configs
from vpjax.runs import workdir

FINISHED = "finished"
# What a result needs to be told beside another's; see `vpjax.runs.summary.facts`.
NEEDED = ("method", "trainable", "percent", "weights", "data", "data_fingerprint", "preset", "seed")
# The config of a run that has none to read.
_NOTHING = ConfigDict({"method": {"name": "?"}, "data": {"name": "?"}, "train": {}, "backbone": {}})
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run's folder as it was read.

    Attributes:
        name: the folder, as short as the reader of a report can use it.
        result: what result.json holds, {} if the run has none.
        status: "finished", or what keeps the run out of tables: "unfinished", "damaged",
            "diverged", "failed".
        reason: more about a status that is not "finished".
        began, ended: local times, "2026-11-20 14:03:59", or "".
    """

    folder: Path
    name: str
    config: ConfigDict
    result: Mapping[str, Any]
    status: str
    reason: str = ""
    began: str = ""
    ended: str = ""

    @property
    def finished(self) -> bool:
        return self.status == FINISHED

    @property
    def split(self) -> str:
        """Returns the split whose numbers are told."""
        return "test" if "test_accuracy" in self.result else "val"

    @property
    def seed(self) -> int:
        return self.result.get("seed", self.config.get("seed", 0))

    @property
    def label(self) -> str:
        """Returns the name of what was trained: the recipe's, or that of a comparison's folder."""
        if given := self.config.get("label", ""):
            return given
        if re.fullmatch(r"seed\d+", self.folder.name) and self.plan is None:
            return self.folder.resolve().parent.name
        return self.method

    @property
    def plan(self) -> Path | None:
        """Returns the folder of `--mode tune` that the run is part of, see `vpjax.studies.trials`."""
        folder = self.folder.resolve().parent.parent
        return folder if (folder / "plan.json").exists() else None

    @property
    def selecting(self) -> bool:
        """Returns whether the run was tried to choose settings, and is nothing to tell."""
        return self.plan is not None and self.folder.resolve().parent.name == "select"

    @property
    def choice(self) -> Mapping[str, Any]:
        """Returns what `--mode tune` chose for a final run, {} of any other."""
        found = None if self.plan is None else files.read_json(self.plan / "choice.json")
        return {} if self.selecting else found or {}

    @property
    def method(self) -> str:
        """Returns the class, such as "vpt.VPT"."""
        return self.result.get("method") or self.config.method.name

    @property
    def expected(self) -> Mapping[str, Any]:
        """Returns the published {"value", "tolerance", "source"}, or {}."""
        found = self.config.get("expected", None)
        found = found.to_dict() if isinstance(found, ConfigDict) else (found or {})
        return found if found.get("value") is not None else {}

    def score(self, metric: str = "accuracy") -> float:
        """Returns a number of the told split, in percent."""
        return self.result.get(f"{self.split}_{metric}", self.result[f"{self.split}_accuracy"])


def find(folders: Iterable[Path], beside: Path) -> list[Run]:
    """Returns all runs in and below `folders`, in the order of their names.

    Names are relative to `beside` where the run is below it.
    Raises: UserError if a folder does not exist or there is no run at all.
    """
    found, folders = {}, list(folders)
    for top in folders:
        if not top.is_dir():
            raise UserError(f"{top} does not exist or is no folder; give folders that hold runs.")
        for place, below, inside in os.walk(top):
            below[:] = sorted(n for n in below if n != "checkpoints" and not n.startswith("."))
            folder = Path(place)
            ours = {"config.json", "failed.json"} & set(inside)
            if ours and (run := read(folder, beside)) is not None:
                found.setdefault(folder.resolve(), run)
    if not found:
        places = ", ".join(map(str, folders))
        raise UserError(
            f"no run in {places}: a run's folder has config.json, and result.json once it is "
            "finished. Give --workdir, or --runs=DIR,DIR, with folders of runs."
        )
    return list(found.values())


def read(folder: Path, beside: Path) -> Run | None:
    """Reads a run's folder; None if config.json is another program's."""
    inside = folder.is_relative_to(beside) and folder != beside
    name = str(folder.relative_to(beside)) if inside else str(folder)
    began, ended = times(folder)
    known = {"folder": folder, "name": name, "began": began, "ended": ended}
    try:
        config = _config(folder)
    except UserError as e:
        return Run(**known, config=_NOTHING, result={}, status="damaged", reason=str(e))
    if "method" not in config or "data" not in config:
        return None
    try:
        result = workdir.read_result(folder)
        failure = workdir.read_failure(folder, final=False)
        if result is not None:
            status, reason = judged(result)
        elif failure is not None:
            status = "diverged" if isinstance(failure, Diverged) else "failed"
            reason = str(failure)
        else:
            status, reason = "unfinished", reached(folder)
    except (json.JSONDecodeError, AttributeError, KeyError) as e:
        result, status, reason = {}, "damaged", f"no record of a run: {type(e).__name__}: {e}"
    return Run(**known, config=config, result=result or {}, status=status, reason=reason)


def _config(folder: Path) -> ConfigDict:
    """Returns a run's config; that of its plan, if the run failed before it began."""
    path, plan = folder / "config.json", folder.resolve().parent.parent / "plan.json"
    if path.exists() or not plan.exists():
        return configs.load(path)
    config = configs.load(plan)
    if seed := re.fullmatch(r"seed(\d+)", folder.name):
        config.seed = int(seed[1])
    return config


def judged(result: Mapping[str, Any]) -> tuple[str, str]:
    """Returns a result's status, and the reason if it is none to tell."""
    status = result.get("status", FINISHED)
    if status != FINISHED:
        return status, str(result.get("reason", ""))
    split = "test" if "test_accuracy" in result else "val"
    for key in (f"{split}_accuracy", f"{split}_loss"):
        value = result.get(key, 0.0)
        if value is None or not math.isfinite(value):
            return "diverged", f"{key} is {value}"
    lacking = [key for key in (*NEEDED, f"{split}_accuracy") if key not in result]
    if lacking:
        return "damaged", f"result.json lacks {', '.join(lacking)}"
    return FINISHED, ""


def reached(folder: Path) -> str:
    """Says how far an unfinished run came."""
    path = folder / "metrics.jsonl"
    steps = re.findall(r'"step": (\d+)', path.read_text()) if path.exists() else []
    return f"no result.json; the history ends at step {steps[-1]}" if steps else "no result.json"


def times(folder: Path) -> tuple[str, str]:
    """Returns when a run said its first and its last word: log.txt survives copying."""
    path = folder / "log.txt"
    if not path.exists():
        return "", ""
    lines = path.read_text(errors="replace").splitlines()
    found = [m[0] for m in map(_TIME.match, lines) if m]
    return (found[0], found[-1]) if found else ("", "")
