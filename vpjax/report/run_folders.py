"""Find run folders, and read the config, result and status of each."""

import dataclasses
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpjax.core import forms
from vpjax.core.errors import Diverged, UserError
from vpjax.core.under import own_file
from vpjax.runs import config as configs
from vpjax.runs import workdir
from vpjax.runs.choice import read_choice

log = logging.getLogger(__name__)

FINISHED = "finished"
RUN_PAGE = "run.html"  # in the folder of every run
# The config of a run whose own cannot be read.
_UNREADABLE = ConfigDict(
    {"method": {"name": "?"}, "data": {"name": "?"}, "train": {}, "backbone": {}, "study": {}}
)
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run's folder as it was read.

    Attributes:
        name: the folder, relative to that of the report where it lies in there.
        result: what result.json holds, {} if the run has none.
        status: "finished", or why the run is in no table: "unfinished", "damaged", "diverged",
            "failed".
        reason: more about a status that is not "finished".
        began: local time of the first line of the log, "2026-11-20 14:03:59", or "".
        ended: the same of the last line.
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
        """The split a report takes numbers from: "test", or "val" of a run without test."""
        return _reported_split(self.result)

    @property
    def metric(self) -> str:
        """The primary metric of the data set: "accuracy" or "map"."""
        return self.result["metric"]

    @property
    def seed(self) -> int:
        return self.result.get("seed", self.config.get("seed", 0))

    @property
    def label(self) -> str:
        """The method's name in tables: config.study.label, or that of the folder with its seeds."""
        if given := self.config.get("study", {}).get("label", ""):
            return given
        if re.fullmatch(r"seed\d+", self.folder.name) and self.plan is None:
            return self.folder.resolve().parent.name
        return self.method

    @property
    def plan(self) -> Path | None:
        """The folder of `tune` that the run belongs to; see `vpjax.studies.trials`."""
        folder = self.folder.resolve().parent.parent
        return folder if (folder / "plan.json").exists() else None

    @property
    def is_trial(self) -> bool:
        """Whether `tune` made the run to choose settings on val."""
        return self.plan is not None and self.folder.resolve().parent.name == "select"

    @property
    def choice(self) -> Mapping[str, Any]:
        """What `tune` chose for a final run; {} of any other run."""
        if self.plan is None or self.is_trial:
            return {}
        try:
            return read_choice(self.plan / "choice.json") or {}
        except forms.Damaged as error:
            log.warning("warning   %s", error)
            return {}

    @property
    def method(self) -> str:
        """The class, such as "vpt.VPT"."""
        return self.result.get("method") or self.config.method.name

    @property
    def expected(self) -> Mapping[str, Any]:
        """The published {"value", "tolerance", "source"}, or {}."""
        found = self.config.get("study", {}).get("expected", {})
        found = found.to_dict() if isinstance(found, ConfigDict) else found
        return found if found.get("value") is not None else {}

    def score(self, metric: str = "") -> float:
        """Return a metric on the reported split, in percent.

        Args:
            metric: "", or one the run does not have: the primary metric.
        """
        primary = self.result[f"{self.split}_{self.metric}"]
        return self.result.get(f"{self.split}_{metric}", primary)


def find(folders: Iterable[Path], beside: Path) -> list[Run]:
    """Return all runs in and below `folders`, in the order of their names.

    Args:
        beside: the folder of the report, which names of runs below it are relative to.

    Raises:
        UserError: if a folder does not exist or there is no run at all.
    """
    found, folders = {}, list(folders)
    for top in folders:
        if not top.is_dir():
            raise UserError(f"{top} is not a folder. Give folders that hold runs.")
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
    """Read a run's folder; None if its config.json is another program's."""
    inside = folder.is_relative_to(beside) and folder != beside
    name = str(folder.relative_to(beside)) if inside else str(folder)
    began, ended = _times(folder)
    known = {"folder": folder, "name": name, "began": began, "ended": ended}
    try:
        _refuse_links(folder)
        config = _config(folder)
    except UserError as e:
        return Run(**known, config=_UNREADABLE, result={}, status="damaged", reason=str(e))
    if "method" not in config or "data" not in config:
        return None
    try:
        result = workdir.read_result(folder)
        failure = workdir.read_failure(folder, final=False)
        if result is not None:
            status, reason = _status(result)
        elif failure is not None:
            status = "diverged" if isinstance(failure, Diverged) else "failed"
            reason = str(failure)
        else:
            status, reason = "unfinished", _progress(folder)
    except forms.Damaged as e:
        result, status, reason = {}, "damaged", str(e)
    return Run(**known, config=config, result=result or {}, status=status, reason=reason)


def _refuse_links(folder: Path) -> None:
    """Check that no link leads a reader out of a run's folder, which somebody else may have made.

    Raises:
        UserError: if one does.
    """
    for name in ("config.json", "result.json", "failed.json"):
        if (folder / name).is_symlink() and own_file(folder, name) is None:
            raise UserError(f"{folder / name} is a link that leads out of the run's folder")


def _config(folder: Path) -> ConfigDict:
    """Return a run's config; that of its plan, if the run failed before it wrote its own."""
    path, plan = folder / "config.json", folder.resolve().parent.parent / "plan.json"
    if path.exists() or not plan.exists():
        return configs.load(path)
    config = configs.load(plan)
    if seed := re.fullmatch(r"seed(\d+)", folder.name):
        config.seed = int(seed[1])
    return config


def _reported_split(result: Mapping[str, Any]) -> str:
    return "test" if "test_loss" in result else "val"


def _status(result: Mapping[str, Any]) -> tuple[str, str]:
    """Return a result's status, and the reason where it is not "finished"."""
    status = result.get("status", FINISHED)
    if status != FINISHED:
        return status, str(result.get("reason", ""))
    split = _reported_split(result)
    primary = f"{split}_{result.get('metric', 'accuracy')}"
    for key in (primary, f"{split}_loss"):
        value = result.get(key, 0.0)
        if value is None or not math.isfinite(value):
            return "diverged", f"{key} is {value}"
    wrong = workdir.incomplete(result)
    if not wrong and primary not in result:
        wrong = f"lacks {primary}"
    if not wrong and split not in result["data"]:
        wrong = f"lacks the data of {split}"
    if wrong:
        return "damaged", f"result.json {wrong}"
    return FINISHED, ""


def _progress(folder: Path) -> str:
    """Return how far an unfinished run has come, in words."""
    path = own_file(folder, "metrics.jsonl")
    text = path.read_text(errors="replace") if path else ""
    steps = re.findall(r'"step": (\d+)', text)
    return f"no result.json; the history ends at step {steps[-1]}" if steps else "no result.json"


def _times(folder: Path) -> tuple[str, str]:
    """Return the times of a log's first and last line, which survive copying the folder."""
    path = own_file(folder, "log.txt")
    if path is None:
        return "", ""
    lines = path.read_text(errors="replace").splitlines()
    found = [m[0] for m in map(_TIME.match, lines) if m]
    return (found[0], found[-1]) if found else ("", "")
