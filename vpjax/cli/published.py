"""Answers flags and keys of the published repositories with what they are here.

    --epoch 50                       of ViT-B/4: write --config.train.epochs=50
    MODEL.PROMPT.NUM_TOKENS 50       of VPT: write --config.method.num_tokens=50

The table is `vpjax.cli.published_words`; docs/migrating.md shows it.
"""

import functools
import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

PAGE = "docs/migrating.md"
FILES = (".pt", ".pth", ".yaml", ".yml")  # values that no flag of ours has
YACS = re.compile(r"[A-Z][A-Z_]*(\.[A-Z][A-Z_0-9]*)*")


class Row(NamedTuple):
    """What a word of a published repository is here.

    Attributes:
        word: the flag or key there.
        ours: what to write here; VALUE is the value given there. "": nothing.
        note: what else to know.
    """

    word: str
    ours: str
    note: str


@functools.cache
def tables() -> dict[str, dict[str, Row]]:
    """Return {repository: {word there: its row}}."""
    from vpjax.cli.published_words import TABLES  # here: only mistakes need it

    out = {}
    for repository, text in TABLES.items():
        rows = [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]
        out[repository] = {
            word: Row(word, "" if ours == "-" else ours, note) for word, ours, note in rows
        }
    return out


def answer(words: Sequence[str], flags: Collection[str], yacs: bool = True) -> str | None:
    """Return what words of published commands are here; None if there are none among them.

    Args:
        words: of a command line, behind the command.
        flags: those that have a meaning of ours.
        yacs: whether words without "--" may be keys, as VPT has them.
    """
    found = list(_found(words, flags, yacs))
    if not found:
        return None
    # Several repositories have a flag of one name: the one that knows most words is meant.
    known = {name: sum(word in rows for word, _ in found) for name, rows in tables().items()}
    meant = [name for name, count in known.items() if count == max(known.values())]
    lines = []
    for word, value in found:
        owners = [name for name in meant if word in tables()[name]]
        owners = owners or [name for name, rows in tables().items() if word in rows]
        lines += _lines(word, value, owners)
    names = " or ".join(meant)
    return (
        f"the command line is that of the published code of {names}; here write\n"
        + "\n".join(lines)
        + f"\nChoices of one recipe are joined by commas. {PAGE} has the whole table."
    )


def hint(key: str) -> str:
    """Return what a config key of a published repository is here; "" if it is none's."""
    for name, rows in tables().items():
        if key in rows and not key.startswith("--"):
            (line,) = _lines(key, None, [name])
            return f"In the published code of {name} it is a key; here:\n{line}"
    return ""


def _found(
    words: Sequence[str], flags: Collection[str], yacs: bool
) -> Iterator[tuple[str, str | None]]:
    """Yield the words that are in a table, and the values that follow them."""
    words = list(words)
    while words and (word := words.pop(0)) != "--":
        name, equals, value = word.partition("=")
        key = yacs and not equals and YACS.fullmatch(name)
        if not (name.startswith("--") or key):
            continue
        if not equals:
            value = words[0] if words and not words[0].startswith("--") else None
        strange = name not in flags or (value or "").endswith(FILES)
        if strange and any(name in rows for rows in tables().values()):
            yield name, value
            if value is not None and not equals:
                words.pop(0)


def _lines(word: str, value: str | None, owners: list[str]) -> list[str]:
    """Return a line for each different answer of several repositories."""
    out = {}
    for name in owners:
        row = tables()[name][word]
        ours = row.ours.replace("VALUE", value) if value is not None else row.ours
        out.setdefault((ours or "nothing to write", row.note), []).append(name)
    shown = f"{word} {value}" if value is not None else word
    lines = []
    for (ours, note), names in out.items():
        whose = f" ({', '.join(names)})" if len(out) > 1 else ""
        lines.append(f"    {shown}{whose}: {ours}" + (f"\n        {note}" if note else ""))
    return lines
