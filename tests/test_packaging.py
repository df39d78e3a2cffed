"""What `pip install` installs: the package, its recipes inside it, and a command."""

import os
import subprocess
import sys
import tomllib

import pytest

from tests.helpers.runs import HOME, result

PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text())


def test_all_packages_are_named():
    setuptools = PROJECT["tool"]["setuptools"]
    found = {p.parent.relative_to(HOME) for p in (HOME / "vpjax").rglob("__init__.py")}
    found = {".".join(p.parts) for p in found} | {"vpjax.recipes"}
    assert sorted(found) == setuptools["packages"]
    assert setuptools["package-dir"] == {"vpjax.recipes": "configs"}
    assert PROJECT["project"]["scripts"] == {"vpjax": "vpjax.cli:script"}
    for pattern in setuptools["package-data"]["vpjax"]:
        assert list((HOME / "vpjax").glob(pattern)), pattern


@pytest.mark.network  # pip fetches what builds the wheel
def test_the_wheel_works_from_any_folder(tmp_path):
    """The command of a wheel finds recipes by name, and trains; dependencies are this Python's."""
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, HOME]
    subprocess.run(pip, check=True)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    (packages,) = (tmp_path / "venv").glob("lib/*/site-packages")
    here = [p for p in sys.path if p.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(here) + "\n")
    (wheel,) = tmp_path.glob("vpjax-*.whl")
    program = tmp_path / "venv" / "bin"
    install = [program / "python", "-m", "pip", "install", "-q", "--no-deps", "--ignore-installed"]
    subprocess.run([*install, wheel], check=True)
    assert not (packages / "configs").exists() and (packages / "vpjax" / "recipes").is_dir()
    assert (packages / "vpjax" / "py.typed").exists()

    def vpjax(*words):
        own = {"PYTHONPATH": "", "VPJAX_CACHE": str(tmp_path / "cache")}
        command = [program / "vpjax", *words]
        return subprocess.run(
            command, cwd=tmp_path, env=os.environ | own, capture_output=True, text=True
        )

    assert "usage: vpjax COMMAND [flags]" in vpjax("--help").stdout
    quick = ["--config.train.steps=3", "--config.draw=False", "--config.curves=False"]
    done = vpjax("train", "--config", "digits:linear", *quick, "--workdir", "run")
    assert done.returncode == 0, done.stderr
    assert "evaluate  vpjax eval --workdir run" in done.stdout
    assert result(tmp_path / "run")["trainable"] == 245
    again = vpjax("eval", "--workdir", "run")
    assert "equal to the recorded test accuracy" in again.stdout, again.stderr
    # Recipes import each other, and a file of one's own imports them.
    (tmp_path / "mine.py").write_text("from configs.digits_pretrain import get_config\n")
    done = vpjax("check-data", "--config", "mine.py", "--workdir", "checked")
    assert done.returncode == 0 and "no fault" in done.stdout, done.stderr
