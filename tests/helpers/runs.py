"""Small real runs, in this process or as a user would start them."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jaxtyping
import pytest
from ml_collections import ConfigDict

from configs import digits
from vpjax import cli

HOME = Path(__file__).resolve().parents[2]
FAST = "--xla_backend_optimization_level=0"  # fast to compile, for programs that run once or twice


def config(label: str = "vpt_deep", **sections: dict) -> ConfigDict:
    """A run on the embedded digits that takes seconds: 12 steps, saved at every evaluation."""
    config = digits.get_config(label)
    config.train.update(steps=12, eval_every=0.16, save_every=0.0, log_every=4)
    for section, values in sections.items():
        config[section].update(values)
    return config


@contextlib.contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """Give all commands inside a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VPJAX_CACHE", str(folder))
        yield


class Done(NamedTuple):
    """How a command ended, and what it wrote."""

    returncode: int
    stdout_text: str
    stderr_text: str


def command(*words: str) -> Done:
    """Run a command in this process, on all its devices."""
    out, err = io.StringIO(), io.StringIO()
    # A batch of any size is a symbol in an exported program, which annotations do not know.
    unchecked = words[:1] == ("export",)
    jaxtyping.config.update("jaxtyping_disable", unchecked)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(list(words))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    return Done(code, out.getvalue(), err.getvalue())


def main(*words: str, wait: bool = True, **environment: str):
    """Start main.py in a process of its own, on one CPU device, as quick to compile as tests.

    For what `command` cannot show: signals, several processes, what a user sees.
    """
    arguments = [sys.executable, str(HOME / "main.py"), *words]
    env = os.environ | {"XLA_FLAGS": FAST, "PYTHONWARNINGS": "default"} | environment
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": env}
    process = subprocess.Popen(arguments, cwd=HOME, **pipes)
    if not wait:
        return process
    process.stdout_text, process.stderr_text = process.communicate(timeout=300)
    return process


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def newest(folder: Path, kind: str = "last") -> Path:
    """The folder of the newest checkpoint."""
    steps = (folder / "checkpoints" / kind).glob("[0-9]*")
    return max((p for p in steps if p.name.isdigit()), key=lambda p: int(p.name))


def digests(folder: Path) -> dict:
    """What the newest checkpoint says its numbers' sha256 are."""
    meta = json.loads((newest(folder) / "meta" / "metadata").read_text())
    return meta["digests"]
