"""Arrays that are kept on disk because they take long to compute: an npz file with a digest.

zip's own checksums say nothing of a header that promises fewer numbers, and are not looked at where
a member is not read to its end. What is damaged is read as if it were not there: it is made anew.
"""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vpjax.core import unpack
from vpjax.core.files import atomic

log = logging.getLogger(__name__)

SUM = "sha256"  # its name among the arrays


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays and their SHA-256 as an npz file, atomically.

    Args:
        path: the file.
        arrays: by name, "sha256" aside.
    """
    with atomic(path) as new, open(new, "wb") as file:
        np.savez(file, **arrays, **{SUM: np.array(_sum(arrays))})


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Return what `write_arrays` wrote; None if it is missing or damaged (a warning)."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:
            unpack.check_zip(kept.zip, path.stat().st_size)
            unpack.headers(kept.zip)
            found = {name: kept[name] for name in kept.files}
        if str(found.pop(SUM)) != _sum(found):
            raise ValueError("its numbers do not have the sha256 they were saved with")
        return found
    except FileNotFoundError:
        return None
    except Exception as error:  # numpy and zipfile raise nearly anything for a damaged file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        log.warning("warning   %s is damaged (%s): computed again", path, reason)
        return None


def _sum(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
