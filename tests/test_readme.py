"""Every command of the README works as it stands there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.runs import FAST, HOME

TEXT = (HOME / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.startswith("python ")]
COMMANDS = [line.partition("  #")[0] for line in LINES]
QUICK = ["--config.train.steps=3"]
# A few of many rows do, where all of them would take minutes.
ROWS = ["--config.study.cells=('linear','vpt_deep','sa2vp')"]
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
# How each is shortened here, what it must say, and its exit status.
EXPECTED = {
    # There are none here; tests/cli/test_photos.py trains on some.
    "python main.py train photos/": ([], "photos/ does not exist", 2),
    "python main.py --config configs/digits.py:vpt_deep --config.method.num_tokens=16 "
    "--workdir runs/sixteen": (QUICK, "test accuracy", 0),
    "python main.py eval --workdir runs/sixteen": ([], "equal to the recorded", 0),
    "python main.py prepare-data cifar10": ([], "cifar-10-binary.tar.gz", 2),
    "python main.py --config configs/vpt_cifar.py --workdir runs/vpt_cifar": ([], "cifar10", 2),
    "python main.py --config configs/vit_b4_compare.py --workdir runs/vit_b4": ([], "cifar10", 2),
    "python main.py --config configs/digits_baselines.py --workdir runs/baselines": (
        [
            *QUICK,
            "--config.study.seeds=(0,)",
            "--config.draw=False",
            "--config.curves=False",
            *ROWS,
        ],
        "comparison.png",
        0,
    ),
    "python main.py report --workdir runs/baselines": ([], "report.html", 0),
    "python main.py convert digits_vit digits_vit.safetensors": ([], "sha256", 0),
    "python main.py class-embeddings --config configs/digits.py:vpt_deep "
    "--config.method.num_tokens=5 --workdir runs/embeddings": ([], "5 class embeddings", 0),
    "python main.py plot --workdir runs/baselines/sa2vp/seed0 --image 3 --patch 0,1": (
        [],
        "prompt_map.png",
        0,
    ),
    "python main.py tune --config configs/vtab.py:method=vpt_deep,task=svhn "
    "--workdir runs/svhn --dry_run": ([], "4 to choose from", 0),
    "python main.py ablate --config configs/ablate_fusion.py:data=digits,model=cnn,narrow=8 "
    "--workdir runs/fusion": (
        [*QUICK, "--config.study.seeds=(0,)", "--config.draw=False"],
        "ablation_fusion.png",
        0,
    ),
    "python main.py check-data --config configs/digits.py": ([], "no fault", 0),
    "python -m tests.golden tests/golden/data/vpt": (["--only=vit_de*"], " 0 failed", 0),
    "python -m benchmarks.step --config configs/digits.py:vpt_deep": ([], "images/s", 0),
    "python main.py --config configs/digits_pretrain.py --workdir runs/digits_pretrain": (
        QUICK,
        "test accuracy",
        0,
    ),
    "python main.py export --workdir runs/digits_pretrain digits_vit.npz": (
        [],
        "digits_vit.npz",
        0,
    ),
}


def test_every_command_is_tested_here():
    assert list(EXPECTED) == COMMANDS


def test_every_command_says_its_time_and_comes_after_activation():
    for line in LINES:
        assert re.search(r"  # .*\b(second|minute|hour)s?\b", line), line
    above = TEXT[: TEXT.index(f"```sh\n{LINES[0]}")]
    assert "```sh\n. .venv/bin/activate\n```" in above


def test_the_two_set_up_commands():
    first, second = BLOCKS[:2]
    assert first.endswith("requirements-cpu.txt && .venv/bin/python main.py\n")
    assert second.endswith("-m pytest -q\n")
    after = TEXT.split("<!-- test command -->\n")[1]
    assert after.startswith(f"```sh\n{second}```")  # what .ci/run takes
    assert len(TEXT.split("## Use it")[0].splitlines()) < 45


@pytest.mark.parametrize(
    "rows",
    [pytest.param(ROWS, id="few"), pytest.param([], marks=pytest.mark.slow, id="all")],
)
def test_the_commands(rows, tmp_path):
    for name in ("configs", "tests", "vpjax", "benchmarks", "main.py"):
        (tmp_path / name).symlink_to(HOME / name)
    nowhere = {"VPJAX_CACHE": str(tmp_path / "cache"), "TFDS_DATA_DIR": str(tmp_path / "data")}
    quick = {"XLA_FLAGS": FAST, "PYTHONPATH": str(tmp_path)}
    env = os.environ | OFFLINE | nowhere | quick
    for command, (more, says, status) in EXPECTED.items():
        more = [word for word in more if word in rows or word not in ROWS]
        arguments = [sys.executable, *shlex.split(command)[1:], *more]
        done = subprocess.run(
            arguments, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900
        )
        said = done.stdout + done.stderr
        assert done.returncode == status, f"{command}\n{said}"
        assert says in said, f"{command}\n{said}"
        assert "Traceback" not in said


def test_the_method_of_twenty_lines_trains(tmp_path):
    from tests.helpers.runs import result

    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    (code,) = (block for block in blocks if "class Shallow" in block)
    assert len(code.splitlines()) <= 20
    assert f"```python\n{code}```" in (HOME / "docs" / "adding.md").read_text()
    (tmp_path / "mylab").mkdir()
    Path(tmp_path / "mylab" / "prompts.py").write_text(code)
    env = os.environ | {"PYTHONPATH": str(tmp_path), "VPJAX_CACHE": str(tmp_path), "XLA_FLAGS": ""}
    command = [sys.executable, "main.py", "--config=configs/digits.py:vpt_shallow"]
    command += ["--config.method.name=mylab.prompts.Shallow", "--config.train.steps=3"]
    command += [f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=HOME, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "run")["trainable"] == 629
