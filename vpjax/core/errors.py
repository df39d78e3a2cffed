"""Errors that a user can correct.

`UserError` is for what a user gave: a file, a name, a config. The command line prints its message
without a traceback. A message says what was found, what was expected, and what to do.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user gave cannot be used; the message says what to do about it."""


class Diverged(UserError):
    """A loss or a gradient is infinite or NaN; the same run would diverge again."""


class InUse(UserError):
    """Another process holds the lock of this file or folder."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that does not exist, which suggests the nearest that does.

    Args:
        kind: what the name is of, such as "preset" or "train.loss".
        name: as the user gave it.
        known: all names that exist.
    """
    known = sorted(map(str, known))
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {name!r}.{hint} Available: {', '.join(known)}.")
