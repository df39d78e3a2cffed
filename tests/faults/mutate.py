"""Random damages of a file, each from a seed: bits, cuts, pieces of other files, values of JSON."""

import json
import random
from collections.abc import Callable
from typing import Any

VALUES = [None, True, False, 0, -1, 3.5, 1e308, 10**30, "", "x", "\u202e=1", [], {}, [[]], {"a": 1}]
BLOCKS = [
    b"\0" * 16,
    b"\xff\xfe",
    b"\x80",
    b"{",
    b"]",
    b'"',
    b"\n\n",
    b"9" * 400,
    b"NaN",
    b"\x1b[2J",
]


def damaged(data: bytes, seed: int) -> bytes:
    """Return the content of a file with one damage; the same for the same seed."""
    rng = random.Random(seed)
    ways: list[Callable] = [_flip, _flip, _cut, _drop, _insert, _double, _noise, _empty]
    if data.lstrip()[:1] in (b"{", b"["):
        ways += [_json] * 8
    return rng.choice(ways)(data, rng)


def _flip(data, rng):
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 8))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _cut(data, rng):
    return data[: rng.randrange(len(data))]


def _drop(data, rng):
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randrange(1, 40) :]


def _insert(data, rng):
    start = rng.randrange(len(data))
    return data[:start] + rng.choice(BLOCKS) + data[start:]


def _double(data, rng):
    start = rng.randrange(len(data))
    stop = start + rng.randrange(1, 60)
    return data[:stop] + data[start:]


def _noise(data, rng):
    start = rng.randrange(len(data))
    size = rng.randrange(1, 64)
    return data[:start] + rng.randbytes(size) + data[start + size :]


def _empty(data, rng):
    return rng.choice((b"", b"\n", b"null", b"[]", b"{}", b"0", b'"x"', b"[" * 100_000))


def _json(data, rng):
    """Change one value of a JSON file, or of a line of JSON lines."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    try:
        tree, whole = json.loads(data), True
    except ValueError:
        try:
            tree, whole = json.loads(lines[at]), False
        except ValueError:
            return _flip(data, rng)
    place, key = _somewhere(tree, rng)
    if place is None:
        tree = rng.choice(VALUES)
    elif rng.random() < 0.3:
        del place[key]
    elif isinstance(place, dict) and rng.random() < 0.15:
        place[rng.choice(("", "x", "../..", key * 2))] = place.pop(key)
    else:
        place[key] = rng.choice(VALUES)
    text = json.dumps(tree, indent=1 if whole else None).encode()
    return text if whole else b"\n".join([*lines[:at], text, *lines[at + 1 :]])


def _somewhere(tree: Any, rng: random.Random) -> tuple[Any, Any]:
    """Return a container in a tree and one of its keys; None: the tree itself."""
    found = []
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        keys = value.keys() if isinstance(value, dict) else range(len(value))
        for key in keys:
            found.append((value, key))
            if isinstance(value[key], dict | list):
                waiting.append(value[key])
    return rng.choice(found) if found else (None, None)
