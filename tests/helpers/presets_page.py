"""The table of presets in docs/preprocessing.md.

python -m tests.helpers.presets_page        writes it
"""

import dataclasses
from pathlib import Path

from vpjax.data import PRESETS

PAGE = Path(__file__).parents[2] / "docs" / "preprocessing.md"
START, END = "<!-- table -->\n", "<!-- end of table -->\n"


def table() -> str:
    """Returns the table, a row for each preset."""
    rows = ["| name | fields |", "| :--- | :----- |"]
    for name, preset in PRESETS.items():
        rows.append(f"| `{name}` | `{dataclasses.replace(preset, name='').text}` |")
    return "\n".join(rows) + "\n"


def parts() -> tuple[str, str, str]:
    """Returns the page before the table, the table, and the rest."""
    before, _, rest = PAGE.read_text().partition(START)
    inside, _, after = rest.partition(END)
    return before + START, inside, END + after


if __name__ == "__main__":
    before, _, after = parts()
    PAGE.write_text(before + table() + after)
