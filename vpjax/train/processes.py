"""Which of the processes that `jax.distributed` joined this is, and what it computes on.

with alone():
    ...    # runs in here know of no other process: they use this one's devices
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax

_ALONE = [False]


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Makes this process work by itself."""
    before, _ALONE[0] = _ALONE[0], True
    try:
        yield
    finally:
        _ALONE[0] = before


def index() -> int:
    """Returns the number of this process."""
    return 0 if _ALONE[0] else jax.process_index()


def count() -> int:
    """Returns how many processes work on a run."""
    return 1 if _ALONE[0] else jax.process_count()


def apart() -> bool:
    """Whether there are other processes, and this one works by itself."""
    return _ALONE[0] and jax.process_count() > 1


def devices() -> list[Any]:
    """Returns the devices of a run."""
    return jax.local_devices() if _ALONE[0] else jax.devices()
