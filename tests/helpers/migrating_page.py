"""The tables of flags in docs/migrating.md.

python -m tests.helpers.migrating_page        writes them
"""

import re
from pathlib import Path

from vpjax.cli import published

PAGE = Path(__file__).parents[2] / "docs" / "migrating.md"


def table(repository: str) -> str:
    """Returns the table of a repository, a row for each word of its commands."""
    rows = ["| flag, key there | here | remark |", "| :--- | :--- | :--- |"]
    for row in published.tables()[repository].values():
        ours = f"`{row.ours}`" if row.ours else ""
        rows.append(f"| `{row.word}` | {ours} | {row.note} |")
    return "\n".join(rows) + "\n"


def written() -> str:
    """Returns the page with its tables of flags written anew."""
    text = PAGE.read_text()
    for name in published.tables():
        pattern = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->\n)"
        text, count = re.subn(
            pattern, lambda m, name=name: m[1] + table(name) + m[2], text, flags=re.DOTALL
        )
        assert count == 1, name
    return text


if __name__ == "__main__":
    PAGE.write_text(written())
