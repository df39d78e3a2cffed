"""Tables and pictures of a page, between markers: what is outside of them is written by hand.

<!-- table: peer -->
(replaced)
<!-- end -->
"""

import re
from collections.abc import Mapping
from pathlib import Path

END = "<!-- end -->"


def begin(name: str) -> str:
    """Return the line above a table."""
    return f"<!-- table: {name} -->"


def replaced(text: str, name: str, content: str) -> str | None:
    """Return `text` with `content` between the markers of `name`, or None without such markers."""
    pattern = re.compile(
        f"^{re.escape(begin(name))}$.*?^{re.escape(END)}$", re.DOTALL | re.MULTILINE
    )
    # A marker whose end is missing must not swallow the next table.
    found = pattern.search(text)
    if found is None or "<!-- table:" in found.group()[len(begin(name)) :]:
        return None
    return (
        f"{text[: found.start()]}{begin(name)}\n\n{content.strip()}\n\n{END}{text[found.end() :]}"
    )


def fill(path: Path, contents: Mapping[str, str]) -> list[str]:
    """Writes contents into the page by name; returns the names it has no markers for."""
    text, missing = path.read_text(encoding="utf-8") if path.exists() else "", []
    for name, content in contents.items():
        new = replaced(text, name, content)
        if new is None:
            missing.append(name)
        else:
            text = new
    if len(missing) < len(contents):
        path.write_text(text, encoding="utf-8")
    return missing
