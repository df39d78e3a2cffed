"""Mappings that remember which of their keys were read: the `meta` and the arrays of a case.

A key of `meta` is one of four things, and what is none of them makes the case fail:

    used         meta["lr"], meta.get("lr", 0.1): its value decides what is computed or compared
    expected     meta.expect("mode", "eval"): has one value only that the library reproduces
    whole        meta.whole("metadata"): data of the case, used as it is
    ignored      meta.ignore("seed"): documentation, such as names, versions and remarks

So whether a case honours all of its keys is not a matter of reading the code: after the comparison
`unread` lists what nobody asked for. Arrays of outputs, gradients and results are held to the same
rule, by their names.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# Documentation wherever it stands. `tier` says which tests run a case, see tests/golden/data.
REMARKS = frozenset(("note", "notes", "ran", "remark", "source", "tier", "what"))


class NotUnderstood(Exception):
    """A case asks for something that the library or the runner does not know."""


class Missing(NotUnderstood, KeyError):
    """A case lacks a key that it needs."""

    __str__ = Exception.__str__


class Record(Mapping):
    """A read-only mapping that remembers which keys were read.

    A mapping in it is a `Record` too, and so is each one of a list of mappings.

    Args:
        values: The mapping.
        path: Keys that lead to this mapping, for messages: "conf/train/".
    """

    def __init__(self, values: Mapping[str, Any], path: str = ""):
        self._values, self._path = dict(values), path
        self._read, self._asked = set(REMARKS & self._values.keys()), set()
        self._inner: dict[str, Any] = {}
        self._whole: set[str] = set()
        self._ignored: set[str] = set(self._read)

    def __getitem__(self, key: str) -> Any:
        self._asked.add(key)
        if key not in self._values:
            raise Missing(f"no {self._path}{key}")
        self._read.add(key)
        if key not in self._inner:
            self._inner[key] = self._wrapped(key, self._values[key])
        return self._inner[key]

    def __contains__(self, key: object) -> bool:
        """Return whether a key exists, which does not count as reading it."""
        self._asked.add(key)
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def _wrapped(self, key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return Record(value, f"{self._path}{key}/")
        if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            return [Record(v, f"{self._path}{key}/{i}/") for i, v in enumerate(value)]
        return value

    def whole(self, key: str, default: Any = None) -> Any:
        """Return a value as it was recorded; all that is in it counts as read."""
        self._asked.add(key)
        if key not in self._values:
            return default
        self._read.add(key)
        self._whole.add(key)
        return self._values[key]

    def ignore(self, *keys: str) -> None:
        """Declare keys as documentation, which changes nothing that is compared."""
        self._ignored |= self._values.keys() & set(keys)
        for key in keys:
            self.whole(key)

    def expect(self, key: str, *allowed: Any) -> None:
        """Check a key that has to have one of these values where it exists.

        Raises:
            NotUnderstood: It has another one.
        """
        value = self.whole(key, allowed[0])
        if value not in allowed:
            known = " or ".join(map(repr, allowed))
            raise NotUnderstood(f"{self._path}{key} is {value!r}; only {known} is known")

    def unread(self) -> list[str]:
        """Return the paths of all keys that were not read."""
        found = [f"{self._path}{key}" for key in self._values if key not in self._read]
        return found + [path for one in self._records() for path in one.unread()]

    def ignored(self) -> list[str]:
        """Return the paths of all keys that are documentation."""
        found = [f"{self._path}{key}" for key in sorted(self._ignored)]
        return found + [path for one in self._records() for path in one.ignored()]

    def asked(self) -> set[str]:
        """Return the paths of all keys that were asked for, whether or not they exist."""
        found = {f"{self._path}{key}" for key in self._asked}
        return found.union(*(one.asked() for one in self._records()))

    def _records(self) -> list["Record"]:
        kept = [value for key, value in self._inner.items() if key not in self._whole]
        flat = [one for value in kept for one in (value if isinstance(value, list) else [value])]
        return [one for one in flat if isinstance(one, Record)]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known name that is most like `name`, or ""."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def under(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return, and so read, the entries whose name begins with `prefix`, without it."""
    return {n.removeprefix(prefix): arrays[n] for n in arrays if n.startswith(prefix)}
