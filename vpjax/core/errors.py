"""Errors a user can mend.

`UserError` is for what a user gave: a file, a name, a config. The command line prints its message
alone, without a traceback. A message has three parts: what was found, what was expected, and what
exists or what to do.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user gave cannot be used; the message says what to do about it."""


class Diverged(UserError):
    """A loss or a gradient is no number any more: it would be so again."""


class InUse(UserError):
    """Another process works in this folder."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that does not exist, with the nearest that do."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {name!r}.{hint} Available: {', '.join(known)}.")
