"""What is known of the licence of a file of weights: a sentence for whoever gets what was learnt.

vpjax knows no licences by heart: it repeats what lies beside the file, and says where to look else.
"""

import re
from pathlib import Path

from vpjax.weights import catalog

CARD = "README.md"  # as on the Hugging Face hub: YAML between two lines of "---", then text
OWN = "Apache-2.0"


def licence_note(where: str, path: Path | None) -> str:
    """Return a sentence on the licence of weights.

    Args:
        where: as the config names them; "": random weights.
        path: the file they were read from; None: there was none.
    """
    if path is None:
        return "no weights of others"
    entry = catalog.find_entry(where)
    if entry is not None and not entry.url:
        return f"base weights: {OWN}, they come with vpjax"
    if name := licence_of_card(path.parent / CARD):
        return f"base weights: {name}, says the {CARD} beside {where}"
    return f"base weights: not recorded; see the page of {entry.url if entry else where}"


def licence_of_card(path: Path) -> str:
    """Return the licence that a model card names, "" if it names none or is none."""
    if not path.is_file():
        return ""
    front = re.match(r"---\n(.*?)\n---", path.read_text(encoding="utf-8", errors="replace"), re.S)
    found = re.search(r"^license:[ \t]*['\"]?([\w.+-]+)", front[1], re.M) if front else None
    return found[1] if found else ""
