"""Hours of one process: does a sweep that never restarts grow?

    python -m tests.faults.soak --minutes 120      exit code 1 if it grows by more than the bounds

A cycle is what a long sweep does for each of its runs, through the public interface: a small run
on digits trains and saves at every evaluation, is stopped by a signal halfway, goes on to its end,
is evaluated again from its folder, loaded, asked for predictions, and deleted. After every cycle
the process counts what it holds: resident memory (after a garbage collection), open files,
threads, and the files it has left in its folders of temporary files, of caches and of runs.

What grows in the first cycles is warm-up: programs that are loaded, caches that fill. Behind them,

    memory    may grow by `MEMORY` MB a save, by a straight line through all cycles
    the rest  may grow by `COUNT` (some by `LOOSER`) from the first tenth of the cycles to the last,
              in their medians
"""

import argparse
import contextlib
import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import vpjax
from configs import digits
from vpjax.core.table import table
from vpjax.data import open_source
from vpjax.runs.scores import evaluate_run
from vpjax.train.signals import Stopped

MEMORY = 0.01  # MB a save: 100 MB in 10,000 saves
COUNT = 2.0
# Libraries' own pools hold 20 to 27 threads at any time; a checkpoint has some files more or fewer.
LOOSER = {"threads": 8.0, "files of runs": 20.0}
WARM_UP = 10  # cycles
STEPS, EVERY = 48, 1  # of a run; between evaluations, each of which saves
FILES = ("temporary files", "cached files", "files of runs")
HEADER = ("", "start", "after warm-up", "middle", "end", "slope a save")
PAGE = os.sysconf("SC_PAGE_SIZE") / 1e6  # MB


class Folders(NamedTuple):
    """Where this process writes."""

    temporary: Path
    cache: Path
    runs: Path


class Count(NamedTuple):
    """What the process holds after a cycle.

    Attributes:
        saves: checkpoints written so far.
        held: memory in MB, and numbers of things, by name.
    """

    saves: int
    held: dict[str, float]


@contextlib.contextmanager
def folders() -> Iterator[Folders]:
    """Yield folders of this process's own, also for what libraries write."""
    with tempfile.TemporaryDirectory(prefix="vpjax-soak-") as top:
        made = Folders(*(Path(top) / name for name in ("temporary", "cache", "runs")))
        for folder in made:
            folder.mkdir()
        os.environ["TMPDIR"], os.environ["VPJAX_CACHE"] = str(made.temporary), str(made.cache)
        tempfile.tempdir = None  # read TMPDIR again
        yield made


def held(where: Folders) -> dict[str, float]:
    """Return what this process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = [sum(len(names) for _, _, names in os.walk(folder)) for folder in where]
    return {
        "memory, MB": pages * PAGE,
        "open files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "Python's threads": threading.active_count(),
        **dict(zip(FILES, files, strict=True)),
    }


def cycle(folder: Path, seed: int) -> int:
    """Train, stop, go on, evaluate, load, predict. Return how many checkpoints were written."""
    config = digits.get_config("vpt_deep")
    config.seed = seed
    config.train.update(steps=STEPS, save_every=0.0, log_every=1, select="best")
    config.train.eval_every = EVERY * config.train.batch_size / 400
    config.optim.warmup_epochs = 1.0
    watch = Watch()
    with contextlib.suppress(Stopped):
        vpjax.fit(config, workdir=folder, callbacks=[watch])
        raise AssertionError("the run was not stopped")
    watch.stop_at = STEPS + 1
    run = vpjax.fit(config, workdir=folder, callbacks=[watch])
    result, again = run.result, evaluate_run(folder)
    assert result["step"] == watch.best_step, (result, watch.best_step)
    assert again["test_loss"] == result["test_loss"], (again, result)
    source = open_source("digits/high", "train[:16]")
    images = np.stack([e["image"] for e in source.__getitems__(range(16))])
    assert len(vpjax.load_run(folder).predict(images).labels) == 16
    return watch.saves


class Watch(vpjax.Callback):
    """Counts what is saved; stops the run as from outside, at an evaluation."""

    stop_at, saves, best, best_step = STEPS // 2, 0, 0.0, 0

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Callback`: each is saved, as the last one and, if it is, as the best one."""
        self.saves += 1
        if metrics["val_accuracy"] > self.best:
            self.best, self.best_step = metrics["val_accuracy"], step
            self.saves += 1
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)


def soak(minutes: float, where: Folders) -> list[Count]:
    """Return the counts of all cycles, of which there are at least `WARM_UP` + 3."""
    counts, saves, begin = [], 0, time.monotonic()
    while (time.monotonic() - begin) / 60 < minutes or len(counts) < WARM_UP + 3:
        folder = where.runs / str(len(counts))
        saves += cycle(folder, seed=len(counts))
        counts.append(Count(saves, held(where)))
        shutil.rmtree(folder)
        line = ", ".join(f"{value:.1f} {name}" for name, value in counts[-1].held.items())
        passed = (time.monotonic() - begin) / 60
        print(f"{passed:6.1f} min, cycle {len(counts)}, {saves} saves: {line}", flush=True)
    return counts


def slope(counts: Sequence[Count], name: str) -> tuple[float, float]:
    """Return the growth of something with every save, and its standard error, by least squares."""
    saves = np.array([c.saves for c in counts], float)
    values = np.array([c.held[name] for c in counts], float)
    saves -= saves.mean()
    rate = float(saves @ values / (saves @ saves))
    rest = values - values.mean() - rate * saves
    return rate, float(np.sqrt(rest @ rest / (len(rest) - 2) / (saves @ saves)))


def growth(counts: Sequence[Count], name: str) -> float:
    """Return by how much the median of the last tenth of cycles is above that of the first."""
    tenth = max(1, len(counts) // 10)
    values = [c.held[name] for c in counts]
    return float(np.median(values[-tenth:]) - np.median(values[:tenth]))


def too_much(counts: Sequence[Count]) -> list[str]:
    """Return what grows behind the warm-up by more than the bounds."""
    warm, found = counts[WARM_UP:], []
    rate, error = slope(warm, "memory, MB")
    if rate - 2 * error > MEMORY:
        found.append(f"memory grows by {rate:.4f} ± {error:.4f} MB a save (bound: {MEMORY})")
    for name in counts[0].held.keys() - {"memory, MB"}:
        bound = LOOSER.get(name, COUNT)
        if (more := growth(warm, name)) > bound:
            found.append(f"{name}: {more:g} more at the end (bound: {bound:g})")
    return found


def as_table(counts: Sequence[Count]) -> str:
    """Return counts as a table: a line for each thing that is counted."""
    warm = counts[WARM_UP:]
    shown: Mapping[str, Count] = {
        "start": counts[0],
        "warm": warm[0],
        "middle": warm[len(warm) // 2],
        "end": warm[-1],
    }
    rows = []
    for name in counts[0].held:
        digits = 1 if "MB" in name else 0
        rate, error = slope(warm, name)
        values = [f"{c.held[name]:.{digits}f}" for c in shown.values()]
        rows.append([name, *values, f"{rate:.4f} ± {error:.4f}"])
    rows.append(["saves", *(str(c.saves) for c in shown.values()), ""])
    return table(HEADER, rows)


def main() -> int:
    """Soak, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=120.0)
    minutes = parser.parse_args().minutes
    with folders() as where:
        begin = time.monotonic()
        counts = soak(minutes, where)
        passed = (time.monotonic() - begin) / 60
    print(f"\n{len(counts)} cycles in {passed:.0f} minutes, {WARM_UP} of them warm-up\n")
    print(as_table(counts))
    for problem in (problems := too_much(counts)):
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
