"""Runs that are stopped, killed, or whose machine lacks something; then the command again."""

import contextlib
import functools
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

from tests.faults.table import Row, kind
from tests.faults.trials import MOMENTS, SIGNALS, WORDS, Tally, asked, at, numbers, once, ran, send
from tests.helpers import runs
from vpjax.runs import fit as fitting


def _signals(name: str, moment: str):
    def made(folder: Path) -> Row:
        tally, whole = Tally(name), once()
        for i, number in enumerate(SIGNALS if moment == "a step" else SIGNALS[:2]):
            run = folder / number.name
            with tally.trial(number.name):
                target, function = MOMENTS[moment]
                first = moment == "the first compile"
                with at(target, function, 1 if first else 2 + i, send(number)):
                    says = "nothing is lost" if first else "all saved; run again to go on"
                    ran(run, code=128 + number, says=says)
                assert first or list((run / "checkpoints" / "last").glob("[0-9]*"))
                ran(run)
                assert numbers(run) == numbers(whole), "other numbers"
        return tally.row

    kind(name)(made)


for _moment in MOMENTS:
    _signals(f"a signal in {_moment}, then again", _moment)


@kind("stopped after any step, then again: bit for bit")
def any_step(folder: Path) -> Row:
    tally, whole = Tally("stopped after any step, then again: bit for bit"), folder / "whole"
    log = "--config.train.log_every=1"
    ran(whole, log)
    for step in (1, 5, 11):
        run = folder / str(step)
        with tally.trial(step):
            with at(fitting.Metrics, "write", _call(step), send(signal.SIGTERM)):
                ran(run, log, code=143, says=f"step {step} of 12")
            ran(run, log)
            assert numbers(run) == numbers(whole), "other numbers"
    return tally.row


def _call(step: int) -> int:
    """Return which line of the history is written at a step, where evaluations write one too."""
    return step + (step - 1) // 2


@kind("gone on with other numbers of devices")
def devices(folder: Path) -> Row:
    """Not bit for bit: sums are taken in another order."""
    import jax

    tally = Tally("gone on with other numbers of devices")
    ran(folder / "whole", "--config.mesh.data=1")
    want = runs.result(folder / "whole")
    for first, then in ((1, 2), (2, 1), (8, 3)):
        if max(first, then) > jax.device_count():
            continue
        run = folder / f"{first}-{then}"
        with tally.trial((first, then)):
            with at(fitting.Metrics, "write", 4, send(signal.SIGTERM)):
                ran(run, f"--config.mesh.data={first}", code=143)
            ran(run, f"--config.mesh.data={then}")
            found = runs.result(run)
            for key in ("test_loss", "val_loss"):
                assert abs(found[key] - want[key]) < 1e-5 * want[key], f"{key} {found[key]}"
            assert found["test_count"] == want["test_count"]
    return tally.row


@kind("kill -9 in a save, then again")
def killed(folder: Path) -> Row:
    tally = Tally("kill -9 in a save, then again")
    words = (*WORDS, "--config.train.steps=60")
    whole = folder / "whole"
    asked(*words, "--config.mesh.data=1", f"--workdir={whole}")
    for trial in range(2):
        run = folder / str(trial)
        with tally.trial(trial):
            process = runs.main(*words, "--config.mesh.data=1", f"--workdir={run}", wait=False)
            try:
                end = time.monotonic() + 240
                wanted = (2, 20)[trial]  # steps that are saved: of them, two checkpoints are kept
                while process.poll() is None and time.monotonic() < end:
                    names = [p.name for p in run.glob("checkpoints/last/*")]
                    done = max((int(n) for n in names if n.isdigit()), default=0)
                    if done >= wanted and any("tmp" in name for name in names):
                        break
                assert process.poll() is None, "it ended before it was killed"
            finally:
                process.kill()
                process.communicate()
            asked(*words, "--config.mesh.data=1", f"--workdir={run}", says="resumed at step")
            assert not list(run.glob("checkpoints/*/*tmp*")), "half-written folders"
            assert numbers(run) == numbers(whole), "other numbers"
    return tally.row


@kind("full disk, then again")
def full(folder: Path) -> Row:
    """No file may become larger than so many bytes; Python ignores the signal of that."""
    tally, whole = Tally("full disk, then again"), once()
    for size in (1, 1_000, 6_000, 20_000):
        run = folder / str(size)
        with tally.trial(size):
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            try:
                done = runs.command(*WORDS, f"--workdir={run}")
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            text = done.stderr_text
            assert "Traceback" not in text, text[-300:]
            named = "the disk is full" in text or "cannot be written (File too large)" in text
            assert done.returncode == 0 or named, text[-300:]
            ran(run)
            assert numbers(run) == numbers(whole), "other numbers"
    return tally.row


@kind("two runs in one folder")
def two(folder: Path) -> Row:
    tally, whole = Tally("two runs in one folder"), once()
    seen = []
    with tally.trial("in use", "named"):
        second = lambda: seen.append(runs.command(*WORDS, f"--workdir={folder / 'run'}"))  # noqa: E731
        with at(fitting.Metrics, "write", 3, second):
            ran(folder / "run")
        assert seen[0].returncode == 2 and "in use by another run" in seen[0].stderr_text
        assert numbers(folder / "run") == numbers(whole), "other numbers"
    return tally.row


def _looks(run: Path):
    return lambda: asked("eval", "--workdir", str(run))


@kind("evaluated while it trains and saves")
def read_only(folder: Path) -> Row:
    tally, whole = Tally("evaluated while it trains and saves"), once()
    for moment, number in (("_write", 3), ("wait", 5)):
        run = folder / f"{moment}{number}"
        with tally.trial((moment, number)):
            with at(fitting.Checkpoints, moment, number, _looks(run)):
                ran(run)
            assert numbers(run) == numbers(whole), "other numbers"
    return tally.row


def _clock(jump: list[int]):
    real = time.time
    return lambda: real() + 3600 * sum(jump)


@kind("the clock jumps by an hour in a save")
def clock(folder: Path) -> Row:
    tally, whole = Tally("the clock jumps by an hour in a save"), once()
    for number, hours in ((2, 1), (3, -1)):
        run, jump = folder / str(number), []
        with tally.trial(hours), contextlib.ExitStack() as held:
            held.enter_context(mock.patch.object(time, "time", _clock(jump)))
            jumps = functools.partial(jump.append, hours)
            held.enter_context(at(fitting.Checkpoints, "wait", number, jumps))
            begin = time.monotonic()
            ran(run)
            assert time.monotonic() - begin < 200, "it waits"
            assert numbers(run) == numbers(whole), "other numbers"
    return tally.row


@kind("out of memory")
def memory(folder: Path) -> Row:
    """A process of its own, whose address space is limited: a CPU has no memory of its own."""
    tally = Tally("out of memory")
    words = ["--config.backbone.weights=", "--config.backbone.image_size=64"]
    words += ["--config.backbone.dim=192", "--config.backbone.mlp_dim=768"]
    words += ["--config.backbone.depth=12", "--config.train.batch_size=512"]
    with tally.trial("9 GB", "named"):
        start = ["bash", "-c", 'ulimit -v 9000000; exec "$0" "$@"', sys.executable]
        start += [str(runs.HOME / "main.py"), *WORDS, *words, f"--workdir={folder / 'run'}"]
        done = subprocess.run(
            start,
            capture_output=True,
            text=True,
            cwd=runs.HOME,
            env=runs.os.environ | {"XLA_FLAGS": runs.FAST},
            timeout=280,
        )
        text = done.stderr
        assert done.returncode == 2 and "Traceback" not in text, text[-300:]
        assert "batch" in text.lower(), text[-300:]
    return tally.row
