"""Arrays of numpy in pickles, as training scripts and data sets write them: nothing is called.

A pickle rebuilds one from an empty array, whose state then holds shape, kind of numbers and bytes.
"""

import re
from typing import Any

import numpy as np

KINDS = r"[fiu][1248]|b1"


class Array:
    """An array of numpy; its numbers are there once the pickle has set its state."""

    value = np.zeros(0, np.float32)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        if not isinstance(kind, Kind) or not isinstance(data, bytes):
            raise TypeError("an array of numpy without numbers")
        order = "F" if fortran else "C"
        self.value = np.frombuffer(data, kind.dtype).reshape(tuple(shape), order=order)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape."""
        return self.value.shape


class Kind:
    """Stands for numpy.dtype."""

    order = "<"

    def __init__(self, name: str = "", *_: Any):
        self.name = _text(name)

    def __setstate__(self, state: Any) -> None:
        self.order = _text(state[1])

    @property
    def dtype(self) -> np.dtype:
        """Return the kind of numbers, of which no other than plain ones exist here."""
        if not re.fullmatch(KINDS, self.name) or self.order not in ("<", ">", "|", "="):
            raise TypeError(f"an array of numpy of kind {self.name!r}")
        return np.dtype(f"{self.order}{self.name}")


def _text(name: Any) -> Any:
    """Return a name of Python 2, whose text was bytes, as text."""
    return name.decode("latin1") if isinstance(name, bytes) else name


def allowed(module: str, name: str) -> Any:
    """Return what stands for a name of numpy in a pickle; None if nothing does."""
    return _ALLOWED.get((module.replace("numpy._core", "numpy.core"), name))


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: Array(),
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): Kind,
    # Bytes, in pickles that also Python 2 can read.
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
}
