"""By what a run was made: the command, and the commit of the checkout."""

import importlib.metadata
import re
import shlex
import sys
from pathlib import Path

import vpjax

PROGRAMS = {"main.py": ["python", "main.py"], "__main__.py": ["python", "-m", "vpjax"]}
PROGRAMS |= {"vpjax": ["vpjax"]}


def command() -> str:
    """Return the command of this process, to be typed again; "" if it is another program's."""
    words = program()
    return shlex.join([*words, *sys.argv[1:]]) if words else ""


def program_line() -> str:
    """Return "vpjax 1.2.0, commit 0123456789ab, jax 0.10.2"."""
    made = commit()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("vpjax", "jax")]
    return ", ".join([versions[0], *([f"commit {made[:12]}"] if made else []), versions[1]])


def program() -> list[str]:
    """Return the words that started this process, ["python", "main.py"]; []: another program."""
    path = Path(sys.argv[0])
    if path.name == "__main__.py" and path.parent.name != "vpjax":
        return []  # python -m pytest
    return PROGRAMS.get(path.name, [])


def commit(checkout: Path = Path(vpjax.__file__).parents[1]) -> str:
    """Return the commit that a checkout is at, 40 digits; "" where there is none.

    Git itself is not asked: it may not be there, and changes in the checkout take it long to find.

    Args:
        checkout: folder with main.py.
    """
    try:
        if not (checkout / "main.py").is_file():
            return ""  # installed, perhaps inside the checkout of something else
        git = checkout / ".git"
        if git.is_file():  # of a further worktree
            git = checkout / git.read_text().removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return _digits(head)
        name = head.removeprefix("ref:").strip()
        shared = git / "commondir"
        common = git / shared.read_text().strip() if shared.exists() else git
        if (common / name).exists():
            return _digits((common / name).read_text().strip())
        packed = (common / "packed-refs").read_text().splitlines()
        return next((_digits(line.split()[0]) for line in packed if line.endswith(f" {name}")), "")
    except (OSError, ValueError, IndexError):
        return ""


def _digits(text: str) -> str:
    return text if re.fullmatch(r"[0-9a-f]{40,64}", text) else ""
