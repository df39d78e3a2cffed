"""Rooms import only what lies below them: the contracts of pyproject.toml."""

import subprocess
import sys

from tests.helpers.runs import HOME

COMMAND = "from importlinter.cli import lint_imports_command as main; main()"


def test_the_contracts_are_kept():
    # In a process of its own: it starts others, which pytest's capturing breaks.
    command = [sys.executable, "-c", COMMAND, "--no-cache"]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
