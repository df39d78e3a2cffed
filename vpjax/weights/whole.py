"""Whether a file of weights is whole: what its own table of contents says, its checksums.

    npz, torch      zip files, with a CRC of every part
    safetensors     a table with the place of every array, up to the last byte
    legacy torch    the size of every storage
    msgpack         a tree, read to its end

A server that gives no length, or a connection through a proxy, may end anywhere.
"""

import json
import zipfile
import zlib
from pathlib import Path

from vpjax.core.errors import UserError
from vpjax.weights import formats, torch_file
from vpjax.weights.hub import ENDINGS

MOST = 100_000_000  # bytes of a table of contents, as the library of safetensors has it


def fault(path: Path, name: str, sized: bool) -> str:
    """Return what is wrong with a file that is to be kept; "" if nothing is.

    Args:
        path: the file.
        name: that it is to have.
        sized: whether it is known to have all its bytes.
    """
    size = path.stat().st_size
    if not size:
        return "it is empty."
    with open(path, "rb") as file:
        start = file.read(64)
    text = ""
    if start.startswith(b"PK") or name.endswith(".npz"):
        text = _of_zip(path, name)
    elif start[8:9] == b"{" or name.endswith(".safetensors"):
        text = _of_safetensors(path, size)
    elif start.startswith(torch_file.MAGIC) or name.endswith(".msgpack"):
        text = _of_others(path)
    elif not sized and name.endswith(ENDINGS):
        text = "the server does not say how long it is, and nothing in it does"
    return text and f"{text} ({size:,} bytes)."


def _of_zip(path: Path, name: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            if name.endswith(".npz") and not any(n.endswith(".npy") for n in archive.namelist()):
                return "it is a zip file without arrays, not an npz file"
            if broken := archive.testzip():
                return f"{broken} in it is damaged: it does not have its checksum"
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        kind = "npz" if name.endswith(".npz") else "zip"
        return f"it is not a complete {kind} file: {error}"
    return ""


def _of_safetensors(path: Path, size: int) -> str:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size, MOST):
            return "it is cut short, or no safetensors file"
        try:
            table = json.loads(file.read(length))
            places = [v["data_offsets"][1] for k, v in table.items() if k != "__metadata__"]
            end = 8 + length + max(places, default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return "its table of contents is damaged, or it is no safetensors file"
    return "" if end == size else f"its table of contents ends at byte {end:,}"


def _of_others(path: Path) -> str:
    try:
        formats.shapes(path)
    except UserError as error:
        return str(error.__cause__ or error).rstrip(".")
    return ""
