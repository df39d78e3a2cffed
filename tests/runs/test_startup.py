"""What a run waits for before its first step: measured, and no more than needed."""

import json
import os
import subprocess
import sys
import time

from tests.helpers.runs import HOME, main, result
from vpjax.runs import startup
from vpjax.runs.startup import Startup, process_age, since_process_start


def test_laps_add_up_by_part(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(startup.time, "monotonic", lambda: now[0])
    clock = Startup(age=2.0)
    for part, seconds in (("imports", 0.0), ("data", 0.5), ("model", 1.0), ("data", 0.25)):
        now[0] += seconds
        clock.record(part)
    assert clock.facts() == {"imports": 2.0, "data": 0.75, "model": 1.0, "total": 3.75}
    assert str(clock) == "first step after 3.8 s: imports 2.0, data 0.8, model 1.0"


def test_the_age_of_a_process():
    code = (
        "import time; time.sleep(0.3); from vpjax.runs.startup import process_age as a; print(a())"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOME)
    assert 0.3 <= float(done.stdout) <= time.monotonic() - begin + 0.1
    assert process_age() > 0
    assert list(since_process_start().parts) == ["imports"]


def test_the_age_where_the_system_does_not_tell_it(monkeypatch):
    monkeypatch.setattr(startup.Path, "read_text", lambda path: "1 (a) b) S 0")
    monkeypatch.setattr(startup, "BEGIN", time.monotonic() - 5)
    assert 5 <= process_age() < 6


def run(code, **environment):
    """Runs code in a process of its own, and returns what it printed."""
    names = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    own = {k: v for k, v in os.environ.items() if k not in names}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=HOME, env=own | environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_pictures_and_other_data_need_is_imported_when_they_come():
    code = "import sys, vpjax.cli.process, vpjax.runs.fit; print('\\n'.join(sys.modules))"
    heavy = {"matplotlib", "tensorflow", "tensorflow_datasets", "scipy", "pandas", "torch"}
    heavy |= {
        "transformers",
        "h5py",
        "cv2",
        "vpjax.report.plots",
        "vpjax.studies.tune",
        "vpjax.report",
    }
    assert not heavy & set(run(code).split())


SMALL = """
import jax, jax.numpy as jnp
from vpjax.cli.process import cache_compilations
cache_compilations()
jax.jit(lambda x: jnp.sin(x) + 1)(jnp.ones(3)).block_until_ready()
"""


def test_the_user_may_keep_no_programs(tmp_path):
    run(SMALL, VPJAX_CACHE=str(tmp_path), JAX_ENABLE_COMPILATION_CACHE="false")
    assert not any(tmp_path.glob("xla/*"))


def test_the_second_run_compiles_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path / "cache"))
    settings = ["--config=configs/digits.py:vpt_deep", "--config.train.steps=2"]
    settings += ["--config.curves=False"]
    kept = []
    for number in (1, 2):
        done = main(*settings, f"--workdir={tmp_path / str(number)}")
        assert done.returncode == 0, done.stderr_text
        kept.append({p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache/xla").iterdir()})
    for name in ("train_step", "eval_step"):
        assert any(f"jit_{name}" in file for file in kept[0])
    # What was compiled would have been written, as even the smallest program is.
    assert kept[1] == kept[0]
    parts = result(tmp_path / "2")["startup"]
    for part in ("imports", "model", "data", "open", "compile", "step"):
        assert parts.pop(part) >= 0
    assert 1 < parts.pop("total") < 300
    assert not parts
    assert "start-up  first step after " in (tmp_path / "2" / "log.txt").read_text()
    assert json.loads((tmp_path / "2" / "result.json").read_text())["seconds"] > 0
