"""Runs of main.py whose machine lacks something: one sentence, an exit code, nothing lost."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.helpers.runs import FAST, HOME, main, result

WORDS = ["--config", "configs/digits.py:vpt_deep", "--config.train.steps=12"]
WORDS += ["--config.train.eval_every=0.16", "--config.train.save_every=0"]
WORDS += ["--config.draw=False", "--config.curves=False"]


def limited(limit, *words):
    """Run main.py under a limit of the shell, such as "-f 6"."""
    command = f'ulimit {limit}; exec "$0" "$@"'
    start = ["bash", "-c", command, sys.executable, str(HOME / "main.py"), *words]
    env = os.environ | {"XLA_FLAGS": FAST}
    return subprocess.run(start, capture_output=True, text=True, cwd=HOME, env=env, timeout=300)


def said(process, *, code):
    errors = process.stderr if isinstance(process.stderr, str) else process.stderr_text
    assert process.returncode == code and "Traceback" not in errors, errors
    return errors.splitlines()[-1]


@pytest.mark.parametrize("kilobytes", [1, 6])
def test_a_full_disk(tmp_path, kilobytes):
    """With 1 kB config.json does not fit, with 6 kB a checkpoint does not."""
    run = [*WORDS, f"--workdir={tmp_path / 'run'}"]
    assert "the disk is full" in said(limited(f"-f {kilobytes}", *run), code=2)
    said(main(*run), code=0)
    said(main(*WORDS, f"--workdir={tmp_path / 'whole'}"), code=0)
    assert result(tmp_path / "run")["test_loss"] == result(tmp_path / "whole")["test_loss"]


def test_an_accelerator_that_is_not_there(tmp_path):
    done = main(*WORDS, f"--workdir={tmp_path / 'run'}", JAX_PLATFORMS="cuda")
    assert "JAX_PLATFORMS=cpu" in said(done, code=2)


def test_a_window_system_that_is_not_there(tmp_path):
    words = [w for w in WORDS if "draw" not in w and "curves" not in w]
    said(main(*words, f"--workdir={tmp_path / 'run'}", MPLBACKEND="nonsense"), code=0)
    assert result(tmp_path / "run")["status"] == "finished"


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT"])
def test_a_signal_saves(tmp_path, name):
    number = signal.Signals[name]
    words = [w.replace("steps=12", "steps=4000").replace("0.16", "9999") for w in WORDS]
    history = tmp_path / "metrics.jsonl"
    process = main(*words, "--config.train.log_every=1", f"--workdir={tmp_path}", wait=False)
    until(lambda: history.exists() and len(history.read_text().splitlines()) > 5)
    process.send_signal(number)
    process.stdout_text, process.stderr_text = process.communicate(timeout=120)
    said(process, code=128 + number)
    assert "all saved; run again" in process.stdout_text
    assert list((tmp_path / "checkpoints" / "last").glob("[0-9]*"))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_while_compiling(tmp_path, name):
    number = signal.Signals[name]
    process = main(
        *WORDS, f"--workdir={tmp_path}", wait=False, XLA_FLAGS="", VPJAX_CACHE=f"{tmp_path}/c"
    )
    until(lambda: (tmp_path / "config.json").exists())
    process.send_signal(number)
    process.stdout_text, process.stderr_text = process.communicate(timeout=120)
    said(process, code=128 + number)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_pipe_among_the_images(tmp_path, split):
    random = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 4), ("test", 4)):
        for name in ("ant", "bee"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 255, (9, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{i}.png")
    pipe = tmp_path / "data" / split / "bee" / "3.png"
    pipe.unlink()
    os.mkfifo(pipe)
    parts = [f"--config.data.{part}={part}" for part in ("train", "val", "test")]
    data = [f"--config.data.name=folder:{tmp_path / 'data'}", *parts]
    done = main(*WORDS, *data, "--config.train.batch_size=8", f"--workdir={tmp_path / 'run'}")
    assert "3.png" in said(done, code=2) or "3.png" in done.stderr_text
