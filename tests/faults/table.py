"""Runs kinds of faults, and makes their table.

A kind is a function that is decorated with `kind`; it gets an empty folder and returns a `Case`:

    @kind("history of a run")
    def history(folder):
        ...
        return Case(folder / "metrics.jsonl", lambda: read_history(folder / "metrics.jsonl"))

A kind whose faults are no damages of files (a kill, a full disk) returns its own `Row`.
"""

import collections
import contextlib
import io
import logging
import os
import re
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.mutate import damaged
from vpjax.core.errors import UserError
from vpjax.core.table import table

SECONDS = 60  # of one trial, on a busy machine
ENDS = ("read", "named")  # how a trial may end
HEADER = ("kind", "trials", "read", "named", "lost")


class Hang(BaseException):
    """A reader does not end; no reader takes it for an error of its own."""


class Case(NamedTuple):
    """A good file, and what reads it.

    Attributes:
        file: that is damaged; of a folder, one of its files in turn, or it is removed.
        read: reads it, and returns what was read.
        same: whether what was read must be what was read before the damage: the file is made anew,
            or has a digest.
        fresh: called before each trial, to undo what a reader has healed; None: nothing to undo.
        named: what a message must name, one of them; (): the file.
        most: trials, where one takes long.
    """

    file: Path
    read: Callable[[], Any]
    same: bool = False
    fresh: Callable[[], None] | None = None
    named: tuple[str, ...] = ()
    most: int = 10_000


class Row(NamedTuple):
    """How the trials of a kind ended.

    Attributes:
        lost: {what went wrong: the seed of the first, or what it was}.
    """

    name: str
    trials: int
    ends: collections.Counter
    lost: dict[str, Any]

    @property
    def good(self) -> bool:
        """Whether every trial survived."""
        return not self.lost


KINDS: dict[str, Callable[[Path], Case | Row]] = {}


def kind(name: str) -> Callable:
    """Register a function as a kind of fault."""

    def register(function: Callable[[Path], Case | Row]) -> Callable[[Path], Case | Row]:
        assert name not in KINDS, name
        KINDS[name] = function
        return function

    return register


def run(name: str, trials: int) -> Row:
    """Try a kind in a folder of its own.

    Args:
        name: of the kind.
        trials: damages, by seeds from 0 on.
    """
    with tempfile.TemporaryDirectory(prefix="vpjax-fault-") as folder, _cache_in(folder):
        made = KINDS[name](Path(folder))
        if isinstance(made, Row):
            return made
        return _damages(name, made, range(min(trials, made.most)))


@contextlib.contextmanager
def _cache_in(folder: str) -> Iterator[None]:
    before = os.environ.get("VPJAX_CACHE")
    os.environ["VPJAX_CACHE"] = os.path.join(folder, "cache")
    try:
        yield
    finally:
        if before is None:
            del os.environ["VPJAX_CACHE"]
        else:
            os.environ["VPJAX_CACHE"] = before


def _damages(name: str, case: Case, seeds: Iterable[int]) -> Row:
    good = _content(case.file)
    with _silent():
        expected = repr(case.read())
    ends: collections.Counter = collections.Counter()
    lost: dict[str, Any] = {}
    for seed in seeds:
        if case.fresh:
            case.fresh()
        _write(case.file, good | _damage(good, seed))
        end = _trial(case, expected)
        ends[end if end in ENDS else "lost"] += 1
        if end not in ENDS:
            lost.setdefault(end, seed)
        _write(case.file, good)
    return Row(name, sum(ends.values()), ends, lost)


def _content(place: Path) -> dict[str, bytes | None]:
    """Return what is in a file, or in all files of a folder, by path; "" is the file itself."""
    if not place.is_dir():
        return {"": place.read_bytes()}
    files = sorted(p for p in place.rglob("*") if p.is_file() and not p.name.startswith("."))
    return {str(p.relative_to(place)): p.read_bytes() for p in files}


def _damage(good: dict[str, bytes | None], seed: int) -> dict[str, bytes | None]:
    """Return the one file that is damaged; None: it is gone."""
    name = sorted(good)[seed % len(good)]
    gone = len(good) > 1 and seed // len(good) % 10 == 0
    return {name: None if gone else damaged(good[name] or b"\n", seed)}


def _write(place: Path, content: dict[str, bytes | None]) -> None:
    """Make a file, or the files of a folder, what is given; others in the folder are removed."""
    if place.is_dir():
        shutil.rmtree(place)
    for name, data in content.items():
        if data is not None:
            path = place / name if name else place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _trial(case: Case, expected: str) -> str:
    """Return how a reader ends: "read", "named", or what went wrong."""
    try:
        with _limited(SECONDS), _silent():
            found = repr(case.read())
    except UserError as error:
        text = str(error)
        wanted = case.named or (case.file.name,)
        if not any(word in text for word in wanted):
            return f"a message without the file: {_short(text)}"
        return "named"
    except BaseException as error:
        return f"{type(error).__name__}: {_short(str(error))}"
    return "read" if not case.same or found == expected else "another value in silence"


def _short(text: str) -> str:
    return re.sub(r"/\S+/", "", " ".join(text.split()))[:90]


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("vpjax", "absl")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def stop(*_):
        raise Hang(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def as_table(rows: Iterable[Row]) -> str:
    """Return rows as a table, and below it what was lost."""
    rows = list(rows)
    lines = [
        [r.name, str(r.trials), *(str(r.ends[end]) for end in ENDS), str(r.ends["lost"])]
        for r in rows
    ]
    text = table(HEADER, lines)
    for row in rows:
        for what, seed in row.lost.items():
            text += f"\n\n{row.name}, seed {seed}: {what}"
    return text
