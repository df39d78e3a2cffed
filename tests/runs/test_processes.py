"""Several processes on one run, joined over loopback as on several machines."""

import json
import re
import shutil
import signal
import socket
import time

import pytest

from tests.helpers import runs
from tests.helpers.runs import newest, result
from vpjax.core import distributed
from vpjax.core.errors import UserError
from vpjax.runs import workdir
from vpjax.runs.fit import fit
from vpjax.runs.history import read_history

STEPS = 24
# A checkpoint every second step, and a rate at which rounding stays rounding.
SETTINGS = {"train.steps": STEPS, "train.eval_every": 0.1, "train.save_every": 0.0}
SETTINGS |= {"train.log_every": 2, "optim.lr": 1e-3, "optim.warmup_epochs": 0.0}
EACH = {"XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {runs.FAST}"}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VPJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def settings(**sections):
    config = runs.config(**sections)
    with config.unlocked():
        config.update_from_flattened_dict(SETTINGS)
    return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of one process that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    fit(settings(), folder)
    return folder


def start(folder, *more, recipe="digits.py:vpt_deep", command="train", slurm=False):
    """Starts two processes that share a run, by hand or as SLURM would."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = [command, f"--workdir={folder}"]
    if command == "train":
        words += [f"--config=configs/{recipe}"]
        words += [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    if slurm:
        words += [*more, "--distributed"]
        job = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
        job |= {"JAX_COORDINATOR_PORT": str(port)} | EACH
        own = [{"SLURM_PROCID": i, "SLURM_LOCALID": i} for i in "01"]
        return [runs.main(*words, wait=False, **job | ids) for ids in own]
    words += [*more, f"--coordinator=localhost:{port}", "--num_processes=2"]
    return [runs.main(*words, f"--process_id={i}", wait=False, **EACH) for i in (0, 1)]


# Its threads write word by word, so that one's line may begin in the middle of another's.
GLOO = re.compile(
    r"\d+|is connected to|peer ranks\.|Expected number of connected peer ranks is :|\s"
)


def ended(both):
    """Waits for both; returns exit codes and what each printed, without what Gloo prints."""
    texts = [p.communicate(timeout=300) for p in both]
    lines = ["".join(t).splitlines() for t in texts]
    said = [[x for x in own if "Gloo" not in x and GLOO.sub("", x)] for own in lines]
    return [p.returncode for p in both], ["\n".join(own) for own in said]


def wait_for(path, both):
    end = time.monotonic() + 240
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < end and all(p.poll() is None for p in both), ended(both)
        time.sleep(0.02)


def agree(folder, whole):
    """Whether a run is the run of one process, but for rounding."""
    ours, theirs = (read_history(f / "metrics.jsonl") for f in (folder, whole))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        for key in a.keys() & {"loss", "val_loss"}:
            assert a[key] == pytest.approx(b[key], rel=1e-4), (a["step"], key)
    files = [json.loads((f / "evaluation.json").read_text()) for f in (folder, whole)]
    for split in ("val", "test"):
        a, b = (found[split] for found in files)
        assert a.keys() == b.keys()
        assert a["count"] == b["count"]
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=100 / b["count"] + 1e-3)


def test_two_processes_stop_together_and_one_goes_on(tmp_path, whole):
    both = start(tmp_path)
    wait_for(tmp_path / "metrics.jsonl", both)
    both[1].send_signal(signal.SIGTERM)  # one is told, both stop
    codes, texts = ended(both)
    assert codes == [128 + signal.SIGTERM] * 2, texts
    at = int(newest(tmp_path).name)
    assert f"stopped at step {at} of {STEPS}" in texts[0]
    assert "4 x cpu" in texts[0]
    assert not texts[1], texts[1]
    assert (tmp_path / "log.txt").read_text().count("frozen") == 1
    assert read_history(tmp_path / "metrics.jsonl")[-1]["step"] == at < STEPS
    fit(settings(), tmp_path)
    assert result(tmp_path)["devices"] == ["cpu"] * 8
    agree(tmp_path, whole)


@pytest.mark.slow
def test_two_processes_are_killed_and_one_or_two_go_on(tmp_path, whole):
    first, one, two = (tmp_path / name for name in ("first", "one", "two"))
    both = start(first)
    wait_for(first / "metrics.csv", both)  # there is a checkpoint soon after
    while not any(p.name.isdigit() for p in first.glob("checkpoints/last/*")):
        time.sleep(0.02)
    for process in both:
        process.kill()
    assert ended(both)[0] == [-signal.SIGKILL] * 2
    assert not (first / "result.json").exists()
    shutil.copytree(first, one)
    shutil.copytree(first, two)

    words = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    done = runs.main("--config=configs/digits.py:vpt_deep", f"--workdir={one}", *words)
    assert done.returncode == 0, done.stderr_text
    assert "resumed at step" in done.stdout_text
    agree(one, whole)

    codes, texts = ended(start(two, "--config.mesh.fsdp=True"))  # the mesh is free to change
    assert codes == [0, 0], texts
    assert "resumed at step" in texts[0]
    assert not texts[1]
    agree(two, whole)
    there = {p.name for p in two.iterdir()}
    assert {"result.json", "curves.png", "per_class.csv", "metrics.csv", "config.json"} <= there

    codes, texts = ended(start(two, command="eval", slurm=True))
    assert codes == [0, 0], texts
    assert "equal to the recorded test accuracy" in texts[0]
    assert not texts[1]


@pytest.mark.slow
def test_two_processes_share_a_comparison_and_refuse_what_cannot_be(tmp_path):
    codes, texts = ended(start(tmp_path / "all", "--config.train.steps=2", recipe="digits.py"))
    assert codes == [0, 0], texts
    assert (tmp_path / "all" / "comparison.md").exists()
    assert "vpt_deep" in texts[0] and not texts[1]
    codes, texts = ended(start(tmp_path / "wrong", "--config.mesh.data=3"))
    assert codes == [2, 2]
    for i, text in enumerate(texts):
        assert f"process {i}: error: " in text and "4 devices in 2 processes" in text
        assert "Traceback" not in text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("node1:77", None, None), "--num_processes and --process_id not given"),
        ((None, 2, None), "--coordinator and --process_id not given"),
        (("node1:77", 2, 2), "those of --num_processes=2 are 0 to 1"),
        (("node1", 2, 1), "expected HOST:PORT"),
    ],
)
def test_processes_that_cannot_join(given, message):
    with pytest.raises(UserError, match=message):
        distributed.join(False, *given)


def test_one_process_asks_nobody(tmp_path):
    distributed.join(False)
    assert (distributed.index(), distributed.count(), distributed.prefix()) == (0, 1, "")
    assert distributed.broadcast_from_zero(lambda: "said") == "said"
    assert distributed.all_max(3, meet=False) == 3
    with workdir.own_folder(tmp_path) as own:
        assert own == tmp_path


def test_others_write_where_nobody_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "index", lambda: 1)
    with workdir.own_folder(tmp_path) as own:
        assert own != tmp_path
        (own / "result.json").write_text("{}")
    assert not own.exists()
    assert not list(tmp_path.iterdir())
    assert distributed.screen().write("unseen")
