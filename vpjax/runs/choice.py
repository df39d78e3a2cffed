"""choice.json of `tune`: what was chosen, and the trials it was chosen from."""

from pathlib import Path
from typing import Any

from vpjax.core import forms
from vpjax.core.forms import ANY, NUMBER

CHOICE = {
    "name": str,
    "params": {str: ANY},
    "val": (*NUMBER, None),
    "trials": {str: int},
    "edges": {str: str},
    "table": [{"name": str, "status": str}],
}
ADVICE = "Restore it from a copy; or rename it, and the same choice is made from the trials again."


def read_choice(path: Path) -> dict[str, Any] | None:
    """Return the content of choice.json; None: nothing is chosen yet.

    Raises:
        Damaged: if it is not as `tune` writes it.
    """
    found = forms.read(path, CHOICE, ADVICE)
    if found and found["name"] and found["val"] is None:
        raise forms.Damaged(f"{path} is damaged: {found['name']} has no 'val'. {ADVICE}")
    return found
