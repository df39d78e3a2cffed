"""Training, evaluation and mistakes on the command line; processes where a process is the point."""

import csv
import json
import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from tests.data.fake import fake_tfds
from tests.helpers.runs import command, digests, main, newest, result

QUICK = ("--config.train.steps=60", "--config.train.log_every=10", "--config.train.save_every=0")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Prepared data and compiled programs of these tests."""
    before = os.environ.get("VPJAX_CACHE")
    os.environ["VPJAX_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("VPJAX_CACHE")
    if before is not None:
        os.environ["VPJAX_CACHE"] = before


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of the embedded data."""
    folder = tmp_path_factory.mktemp("run") / "vpt deep"
    done = main("--config=configs/digits.py:vpt_deep", f"--workdir={folder}", *QUICK)
    assert done.returncode == 0, done.stderr_text
    return folder, done


def test_it_trains_and_leaves_files_a_person_can_open(run):
    folder, done = run
    found = result(folder)
    assert found["status"] == "finished"
    assert found["step"] == 60
    assert found["test_count"] == 366
    assert found["test_accuracy"] > 60
    assert found["trainable"] == 1781
    assert len(found["weights"]["sha256"]) == 64
    assert found["preset"] == "digits"
    config = json.loads((folder / "config.json").read_text())
    assert config["method"]["name"] == "vpt.VPT"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines if "loss" in row] == [10, 20, 30, 40, 50, 60]
    assert lines[-1]["val_accuracy"] > 0
    with open(folder / "metrics.csv") as file:
        assert len(list(csv.DictReader(file))) == len(lines)
    picture = np.asarray(Image.open(folder / "curves.png").convert("L"))
    assert picture.std() > 10


def test_the_opening_says_what_will_happen(run):
    folder, done = run
    head = done.stdout_text.splitlines()[:8]
    assert any("test accuracy" in line for line in done.stdout_text.splitlines()), head
    for text in ("run  ", "data  ", "weights  ", "plan  "):
        assert any(line.startswith(text) for line in head), head
    assert "backbone  vit.ViT, 4 layers, width 48, 8x8 pixels in 4x4 patches of 2x2" in head
    assert any(line.startswith("program   vpjax ") and ", jax " in line for line in head)
    out = (folder / "log.txt").read_text()
    for text in (
        "| method/prompts/3   | 8 x 48 |    384 |  0.48 % |",
        "| trainable          |        |  1,781 |  2.25 % |",
        "400 images",
        "sha256",
        "attention xla",
        "mesh {'data': 1}",
        "MiB a device",
        "GFLOP an image",
        "test accuracy",
    ):
        assert text in out, out


def test_progress_without_a_terminal_is_plain_lines_with_rate_and_eta(run):
    _, done = run
    last = done.stderr_text.strip().splitlines()[-1]
    assert last.startswith("step  60/60  100%")
    assert "img/s  ETA 0:00:00" in last
    assert "val_accuracy" in last
    assert "\r" not in done.stderr_text
    assert "\x1b" not in done.stderr_text


def test_a_new_process_reproduces_the_recorded_accuracy(run):
    folder, _ = run
    again = main("eval", f"--workdir={folder}")
    assert again.returncode == 0, again.stderr_text
    assert "equal to the recorded test accuracy" in again.stdout_text
    assert f"{result(folder)['test_accuracy']:.2f} %" in again.stdout_text


def test_a_finished_run_is_not_run_again(run):
    folder, _ = run
    before = newest(folder).stat().st_mtime_ns
    done = command("--config=configs/digits.py:vpt_deep", f"--workdir={folder}", *QUICK)
    assert done.returncode == 0
    assert "is finished: step 60, test accuracy" in done.stdout_text
    assert newest(folder).stat().st_mtime_ns == before


def test_another_config_in_the_same_folder_is_refused(run):
    folder, _ = run
    done = command(
        "--config=configs/digits.py:vpt_deep",
        f"--workdir={folder}",
        *QUICK,
        "--config.optim.lr=0.5",
    )
    assert done.returncode == 2
    assert "optim.lr: 0.5 now, 0.03 there" in done.stderr_text
    assert "Traceback" not in done.stderr_text


def wait_for(process, folder, seconds=120):
    """Waits until a run has saved its first checkpoint."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if any(p.name.isdigit() for p in folder.glob("checkpoints/last/*")):
            return
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint: {process.communicate()}")


LONG = ("--config.train.steps=800", "--config.train.eval_every=2", "--config.train.save_every=0")


@pytest.mark.parametrize(
    "kind",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_when_started_again(tmp_path, kind):
    arguments = ("--config=configs/digits.py:vpt_deep", *LONG)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = main(*arguments, f"--workdir={killed}", wait=False)
    wait_for(process, killed)
    process.send_signal(kind)
    out, err = process.communicate(timeout=60)
    assert not (killed / "result.json").exists()
    if kind != signal.SIGKILL:
        assert process.returncode == 128 + kind
        assert "run again to go on" in out
    again = main(*arguments, f"--workdir={killed}")
    assert again.returncode == 0, again.stderr_text
    assert "resumed at step" in again.stdout_text
    if kind == signal.SIGKILL:  # once is enough: the same numbers as a run never stopped
        assert main(*arguments, f"--workdir={whole}").returncode == 0
        assert digests(killed) == digests(whole)
        assert result(killed)["test_accuracy"] == result(whole)["test_accuracy"]
        steps = [
            json.loads(line)["step"]
            for line in (killed / "metrics.jsonl").read_text().splitlines()
            if "val_accuracy" in line
        ]
        assert steps == sorted(set(steps))


def test_cifar_from_tfds_records_through_its_own_recipe(tmp_path):
    fake_tfds(tmp_path / "data", "cifar10", {"train": 60, "test": 20})
    tiny = {"variant": "Ti/8", "dim": 16, "mlp_dim": 16, "heads": 2, "depth": 2, "image_size": 32}
    arguments = [
        "--config=configs/vpt_cifar224.py",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.dir={tmp_path / 'data'}",
        "--config.data.preset=inception",
        "--config.backbone.weights=",
        "--config.method.num_tokens=4",
        "--config.train.batch_size=8",
        "--config.train.epochs=2",
        "--config.train.select=best",
        *(f"--config.backbone.{k}={v}" for k, v in tiny.items()),
    ]
    done = command(*arguments)
    assert done.returncode == 0, done.stderr_text
    found = result(tmp_path / "run")
    train = found["data"]["train"]
    assert (train["name"], train["images"]) == ("cifar10:3.0.2[train[:90%]]", 54)
    assert found["test_count"] == 20
    assert found["dtype"] == "bfloat16"
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 14
    assert found["step"] in (7, 14)  # the better of the two
    again = command("eval", f"--workdir={tmp_path / 'run'}")
    assert "equal to the recorded test accuracy" in again.stdout_text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.method.num_tokns=3"], "Did you mean 'num_tokens'"),
        (["--config.methd.num_tokens=3"], "Did you mean 'method'"),
        (["--config.train.steps=many"], "config.train.steps is 'many'; expected a whole number"),
        (["--worksdir=x"], "Did you mean '--workdir'"),
        (["--config.method.name=vpt.VTP"], "Did you mean 'vpt.VPT'"),
        (["--config.method.name=finetun.Linear"], "Did you mean 'finetune.Linear'"),
        (["--config.backbone.variant=Q/16"], "unknown ViT variant"),
        (["--config.backbone.weights=vit_b16_in21"], "vit_b16_in21k"),
        (["--config.method.name=finetune.Linear", "--config.method.num_layers=1"], "head_hidden"),
        (["--config.backbone.name=swin.Swin", "--config.backbone.wndow=1"], "'window'"),
        (["--config.optim.name=adamx"], "Did you mean 'adam'"),
        (["--config.attention=cudnn"], "cannot run: the device is cpu"),
        (["--config.remat=ful"], "Did you mean 'full'"),
        (["--config.data.name=cifar1"], "cifar10"),
        (["--config.data.preset=digit"], "Did you mean 'digits'"),
        (["--config=configs/digits.py:vpt"], "Did you mean 'vpt_deep'"),
        (
            ["--config=configs/digit.py"],
            "configs/digit.py does not exist; unknown recipe 'digit'. Did",
        ),
        (["--config=digts"], "Did you mean 'digits'"),
    ],
)
def test_mistakes_get_one_message(tmp_path, arguments, message):
    recipe = [] if arguments[0].startswith("--config=") else ["--config=configs/digits.py:vpt_deep"]
    done = command("train", *recipe, *arguments, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2, done.stderr_text
    assert message in done.stderr_text
    assert "Traceback" not in done.stderr_text
    assert "compiled" not in done.stdout_text


def test_a_mistake_without_a_recipe_gets_one_message_too(tmp_path):
    done = command("--config.method.num_tokns=3", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "Did you mean 'num_tokens'" in done.stderr_text
    assert "Traceback" not in done.stderr_text


def test_a_method_changed_on_the_command_line_keeps_what_fits(tmp_path):
    done = command(
        "--config=configs/digits.py:vpt_deep",
        "--config.method.name=finetune.Linear",
        f"--workdir={tmp_path}",
        "--config.train.steps=4",
    )
    assert done.returncode == 0, done.stderr_text
    assert result(tmp_path)["trainable"] == 245


def test_a_method_named_on_the_command_line_brings_its_options(tmp_path):
    done = command(
        "--config=configs/digits.py:vpt_deep",
        "--config.method.name=adapter.Adapter",
        "--config.method.reduction=8",
        f"--workdir={tmp_path}",
        "--config.train.steps=4",
    )
    assert done.returncode == 0, done.stderr_text
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["method"]["reduction"] == 8 and "num_tokens" not in config["method"]


def test_evaluating_what_was_never_trained(tmp_path):
    done = command("eval", f"--workdir={tmp_path / 'nothing'}")
    assert done.returncode == 2
    assert "is no run of vpjax" in done.stderr_text


@pytest.mark.slow
def test_the_first_run_shows_the_point_of_prompts(tmp_path):
    done = main(f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr_text
    rows = {r["label"]: r for r in json.loads((tmp_path / "comparison.json").read_text())}
    for prompts in ("vpt_shallow", "vpt_deep"):
        assert rows[prompts]["mean"] >= rows["linear"]["mean"] + 2
        assert rows[prompts]["percent"] < 3
    for name in ("comparison.md", "comparison.csv", "comparison.png"):
        assert (tmp_path / name).stat().st_size > 100
    command = done.stdout_text.split("evaluate  python main.py ")[1].split("\n")[0]
    again = main(*command.split())
    assert "equal to the recorded test accuracy" in again.stdout_text
