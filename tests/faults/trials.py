"""Trials of kinds whose faults are no damages of files: how real runs end, counted."""

import atexit
import collections
import contextlib
import functools
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from tests.faults.table import Row, _limited, _short, _silent
from tests.helpers import runs
from vpjax.runs import fit as fitting

SECONDS = 300  # of one trial, on a busy machine
STEPS = 12
# A run of seconds on the embedded digits, which saves at every second step.
WORDS = ("--config", "configs/digits.py:vpt_deep", f"--config.train.steps={STEPS}")
WORDS += ("--config.train.eval_every=0.16", "--config.train.save_every=0")
WORDS += ("--config.train.log_every=2", "--config.draw=False", "--config.curves=False")


class Tally:
    """Counts how trials end."""

    def __init__(self, name: str):
        self.name, self.ends, self.lost = name, collections.Counter(), {}

    @contextlib.contextmanager
    def trial(self, what: object, end: str = "read") -> Iterator[None]:
        """Count a trial, which is lost if the block raises.

        Args:
            what: of it.
            end: "read" if it must end as if nothing had happened, "named" with a message.
        """
        try:
            with _limited(SECONDS), _silent():
                yield
            self.ends[end] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            self.ends["lost"] += 1
            self.lost.setdefault(f"{type(error).__name__}: {_short(str(error))}", what)

    @property
    def row(self) -> Row:
        return Row(self.name, sum(self.ends.values()), self.ends, self.lost)


def ran(folder: Path, *words: str, code: int = 0, says: str = "") -> runs.Done:
    """Train in a folder; the exit code and what is said must be these, without a traceback."""
    return asked(*WORDS, f"--workdir={folder}", *words, code=code, says=says)


@functools.cache
def once() -> Path:
    """Return a run that nothing has disturbed, the same for all kinds."""
    folder = Path(tempfile.mkdtemp(prefix="vpjax-whole-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with _silent():
        ran(folder / "run")
    return folder / "run"


def asked(*words: str, code: int = 0, says: str = "") -> runs.Done:
    """Give a command, as on the command line but in this process."""
    done = runs.command(*words)
    text = done.stdout_text + done.stderr_text
    assert done.returncode == code, f"exit code {done.returncode}, not {code}: {text[-300:]}"
    assert "Traceback" not in text, text[-300:]
    assert says in text, f"no {says!r} in: {text[-300:]}"
    return done


def numbers(folder: Path) -> tuple:
    """Return what must be the same, bit for bit, of two runs that are the same."""
    result = runs.result(folder)
    metrics = {k: v for k, v in result.items() if k.startswith(("val_", "test_", "best_val"))}
    return metrics, runs.digests(folder), (folder / "metrics.csv").read_bytes()


@contextlib.contextmanager
def at(target: object, name: str, number: int, action: Callable[[], object]) -> Iterator[None]:
    """Do something just before the n-th call of a function, while the block runs."""
    real, calls = getattr(target, name), iter(range(1, 10_000))

    def patched(*arguments, **options):
        if next(calls) == number:
            action()
        return real(*arguments, **options)

    with mock.patch.object(target, name, patched):
        yield


def send(number: int) -> Callable[[], None]:
    """Return what sends a signal to this process, in its main thread."""
    assert threading.current_thread() is threading.main_thread()
    return lambda: os.kill(os.getpid(), number)


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MOMENTS = {
    "a step": (fitting.Metrics, "write"),
    "an evaluation": (fitting, "evaluate_metrics"),
    "a save": (fitting.Checkpoints, "_write"),
    "the first compile": (fitting, "compiled"),
}
