"""Reads a file of weights as {name in the file: array}.

    npz            numpy
    safetensors    Hugging Face and others
    torch          .pth, .pt, .pth.tar: see `vpjax.weights.torch_file`
    msgpack        Flax: trees, whose names are joined by "/"

The first bytes of a file decide which it is, not its extension.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors.numpy
from flax import serialization, traverse_util

from vpjax.core.errors import UserError
from vpjax.weights import torch_file

CONVERT = "python main.py convert"
NARROW = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
# First bytes of files that are often taken for weights.
OTHERS = {
    b"<!doctype html": "a web page: a login page, a proxy or a wrong address. Download it again",
    b"<html": "a web page: a login page, a proxy or a wrong address. Download it again",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself. Run `git lfs pull`",
    b"\x89hdf\r\n": "an HDF5 file. Look for the same weights as npz, safetensors or .pth",
    b"\x1f\x8b": "compressed with gzip. Unpack it",
    b"\x80": f"a pickle without torch's header. If you trust it: {CONVERT} --unsafe IN OUT",
}


def read(path: Path) -> dict[str, np.ndarray]:
    """Return every array of a file by its name there; half precision becomes float32.

    Raises: UserError if the file is truncated, damaged, or of another kind.
    """
    path = Path(path)
    try:
        arrays = reader(path)(path)
    except (UserError, MemoryError):
        raise
    except torch_file.Unsupported as e:
        raise UserError(
            f"weights {path} cannot be read: {e}. Where torch is installed, try\n"
            f"    {CONVERT} {path} {path.with_suffix('.safetensors')}"
        ) from e
    except Exception as e:  # a damaged file raises nearly anything
        size = path.stat().st_size
        raise UserError(
            f"weights {path} ({size:,} bytes) cannot be read: {type(e).__name__}: {e}. The file is "
            "truncated or damaged; fetch it again."
        ) from e
    return {n: a.astype(np.float32) if a.dtype in NARROW else a for n, a in arrays.items()}


def reader(path: Path) -> Callable[[Path], dict[str, np.ndarray]]:
    """Return the function that reads a file of this content.

    Raises: UserError if no function can read it.
    """
    with open(path, "rb") as stream:
        start = stream.read(64)
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("data.pkl") for name in names):
            return torch_file.read
        if any(name.endswith(".npy") for name in names):
            return _npz
        raise UserError(f"weights {path}: a zip file without arrays. {_EXPECTED}")
    if start.startswith(torch_file.MAGIC):
        return torch_file.read
    if start[8:9] == b"{":  # a JSON table of contents, after its length
        return safetensors.numpy.load_file
    # A map of up to 15 entries, the first of whose names is short.
    if start[:1] in _SMALL_MAP and start[1:2] in _SHORT_TEXT:
        return _msgpack
    for beginning, text in OTHERS.items():
        if start.lstrip().lower().startswith(beginning):
            raise UserError(f"weights {path}: the file is {text}.")
    found = f"it begins with {start[:8]!r}" if start else "it is empty"
    raise UserError(f"weights {path}: unknown kind of file, {found}. {_EXPECTED}")


_EXPECTED = "Expected npz, safetensors or a torch file; truncated downloads must be fetched again."
_SMALL_MAP = [bytes([b]) for b in range(0x81, 0x90)]
_SHORT_TEXT = [bytes([b]) for b in range(0xA0, 0xC0)]


def _msgpack(path: Path) -> dict[str, np.ndarray]:
    tree = serialization.msgpack_restore(path.read_bytes())
    return {n: np.asarray(v) for n, v in traverse_util.flatten_dict(tree, sep="/").items()}


def _npz(path: Path) -> dict[str, np.ndarray]:
    # Opened here, as numpy leaves a file open that it cannot read.
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
