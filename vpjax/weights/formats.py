"""Reads a file of weights as {name in the file: array}.

    npz            numpy; bfloat16 too, which numpy calls raw bytes (|V2)
    safetensors    Hugging Face and others
    torch          .pth, .pt, .pth.tar, .bin: see `vpjax.weights.torch_file`
    msgpack        Flax: trees, whose names are joined by "/"
    index          model.safetensors.index.json: which array lies in which of several files

The first bytes of a file decide which it is, not its extension. Nothing in a file is executed.
"""

import functools
import json
import logging
import math
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy
from flax import serialization, traverse_util

from vpjax.core import forms, unpack
from vpjax.core.errors import UserError
from vpjax.core.under import plain_name
from vpjax.weights import torch_file
from vpjax.weights.torch_file import Pick

log = logging.getLogger(__name__)

CONVERT = "python main.py convert"
NARROW = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
RAW_PAIR = np.dtype("V2")  # how numpy stores bfloat16
PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\..+)")  # model-00001-of-00002.safetensors
ENTRY = {"dtype": str, "shape": [int], "data_offsets": [int]}  # of a safetensors file's table
# First bytes of files that are often taken for weights.
OTHERS = {
    b"<!doctype html": "a web page: a login page, a proxy or a wrong address. Download it again",
    b"<html": "a web page: a login page, a proxy or a wrong address. Download it again",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself. Run `git lfs pull`",
    b"\x89hdf\r\n": "an HDF5 file. Look for the same weights as npz, safetensors or .pth",
    b"\x1f\x8b": "compressed with gzip. Unpack it",
    b"\x93numpy": "a single array of numpy (.npy). Weights are several, by name: an npz file",
    b"\x80": f"a pickle without torch's header. If you trust it: {CONVERT} --unsafe IN OUT",
}


def read(path: Path, pick: Pick | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name; half precision becomes float32.

    Args:
        path: a file of weights, or the index of several.
        pick: chooses from all names in the file: {name there: name to return}. None: all of them,
            of a torch file those of its model.

    Raises: UserError if the file is truncated, damaged, or of another kind.
    """
    path = Path(path)
    if (form := _kind(path)) == "torch":
        arrays = guarded(path, lambda: torch_file.read(path, pick))
    else:
        arrays = guarded(path, lambda: _READERS[form](path))
        if pick is not None:
            arrays = {ours: arrays[name] for name, ours in pick(arrays.keys()).items()}
    return {n: a.astype(np.float32) if a.dtype in NARROW else a for n, a in arrays.items()}


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all arrays of a file by the names that `read` gives to `pick`.

    Only Flax's files need to be read for it.
    Raises: UserError as `read` does.
    """
    return dict(_shapes(Path(path), tuple(f.stat().st_mtime_ns for f in files_of(path))))


@functools.lru_cache(maxsize=8)
def _shapes(path: Path, modified_ns: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return guarded(path, lambda: _SHAPES[_kind(path)](path))


def files_of(path: Path) -> list[Path]:
    """Return the files that `path` consists of: itself, or an index and the files it lists.

    Raises: UserError if a file of the list is missing.
    """
    path = Path(path)
    if not path.name.endswith(".index.json"):
        return [path]
    parts = [path.parent / f for f in sorted(set(_weight_map(path).values()))]
    if missing := [f.name for f in parts if not f.is_file()]:
        raise UserError(
            f"weights {path} lie in {len(parts)} files, of which {len(missing)} are missing: "
            f"{', '.join(missing[:4])}. Download them into the same folder."
        )
    return [path, *parts]


def guarded(path: Path, work: Callable[[], Any]) -> Any:
    """Return what reading a file of weights returns; damage becomes a message.

    Args:
        path: the file.
        work: reads it, or turns what was read into what is wanted.

    Raises:
        UserError: for whatever `work` raises.
    """
    try:
        return work()
    except UserError:
        raise
    except MemoryError as e:
        size = path.stat().st_size
        raise UserError(
            f"weights {path} ({size:,} bytes) need more memory than this machine has free."
        ) from e
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


def _kind(path: Path) -> str:
    """Return the kind of a file by its content, a key of `_READERS` or "torch".

    Raises: UserError if it is of no kind that can be read, or only a part of a model.
    """
    if (part := PART.fullmatch(path.name)) and int(part[3]) > 1:
        raise UserError(
            f"weights {path} are part {int(part[2])} of {int(part[3])} of a model. Give the folder "
            f"with all parts, or the list of them, {part[1]}{part[4]}.index.json."
        )
    if path.exists() and not path.is_file():  # of a pipe, reading may never end
        raise UserError(f"weights {path}: it is no plain file. {_EXPECTED}")
    with open(path, "rb") as stream:
        start = stream.read(64)
    if start.startswith(b"PK"):
        return guarded(path, lambda: _kind_of_zip(path))
    if start.startswith(torch_file.MAGIC):
        return "torch"
    if start[8:9] == b"{":  # a JSON table of contents, after its length
        return "safetensors"
    if path.name.endswith(".index.json") and start.lstrip().startswith(b"{"):
        return "index"
    if _is_map_of_texts(start):
        return "msgpack"
    for beginning, text in OTHERS.items():
        if start.lstrip().lower().startswith(beginning):
            raise UserError(f"weights {path}: the file is {text}.")
    found = f"it begins with {start[:8]!r}" if start else "it is empty"
    raise UserError(f"weights {path}: unknown kind of file, {found}. {_EXPECTED}")


_EXPECTED = "Expected npz, safetensors or a torch file; truncated downloads must be fetched again."


def _kind_of_zip(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    if any(name.endswith(".npy") for name in names):
        return "npz"
    raise UserError(f"weights {path}: a zip file without arrays. {_EXPECTED}")


def _is_map_of_texts(start: bytes) -> bool:
    """Return whether msgpack's first bytes are of a map that is not empty, then of a text."""
    sizes = {0xDE: 2, 0xDF: 4}  # of maps of more than 15 entries: bytes that hold the count
    if not start or not (0x81 <= start[0] <= 0x8F or start[0] in sizes):
        return False
    key = start[1 + sizes.get(start[0], 0) :][:1]
    return bool(key) and (0xA0 <= key[0] <= 0xBF or key[0] in (0xD9, 0xDA))


def _npz(path: Path) -> dict[str, np.ndarray]:
    # Opened here, as numpy leaves a file open that it cannot read.
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
        unpack.check_zip(file.zip, path.stat().st_size)
        _check_kinds(path, file)
        arrays = {name: file[name] for name in file.files}
    raw = [n for n, a in arrays.items() if a.dtype == RAW_PAIR]
    if raw:
        log.debug("%s: %d arrays of two raw bytes each, read as bfloat16", path.name, len(raw))
    return arrays | {n: arrays[n].view(ml_dtypes.bfloat16) for n in raw}


def _npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
        unpack.check_zip(file.zip, path.stat().st_size)
        _check_kinds(path, file)
        return {n: shape for n, (shape, _) in unpack.headers(file.zip).items()}


def _check_kinds(path: Path, file: np.lib.npyio.NpzFile) -> None:
    for name, (_, dtype) in unpack.headers(file.zip).items():
        if dtype.hasobject:
            raise UserError(
                f"weights {path}: {name!r} holds Python objects (a pickle), not numbers. To read "
                "them would run code of the file's choice. Save plain arrays by name instead."
            )
        if dtype.kind == "V" and dtype != RAW_PAIR:
            raise UserError(
                f"weights {path}: {name!r} holds raw bytes ({dtype.str}), of a kind of "
                "numbers that numpy does not know, such as float8. Save it as float32."
            )


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    kinds = {v["dtype"] for v in _table(path).values()}
    if unknown := sorted(k for k in kinds if k[0] == "F" and k not in ("F64", "F32", "F16")):
        raise UserError(
            f"weights {path} hold numbers of kind {', '.join(unknown)}, which are quantised. Look "
            "for the same weights in float32, float16 or bfloat16."
        )
    return safetensors.numpy.load_file(path)


def _safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    return {n: tuple(v["shape"]) for n, v in _table(path).items()}


def _table(path: Path) -> dict[str, dict]:
    with open(path, "rb") as stream:
        size, whole = int.from_bytes(stream.read(8), "little"), os.fstat(stream.fileno()).st_size
        if size > whole - 8:
            raise EOFError("the table of contents is cut off")
        table = json.loads(stream.read(size))
    table = {n: v for n, v in table.items() if n != "__metadata__"}
    for name, entry in table.items():
        forms.check(entry, ENTRY, f"weights {path}, {name!r:.80},", "Fetch the file again.")
        start, end = entry["data_offsets"]
        if not 0 <= start <= end <= whole - 8 - size:
            raise EOFError(f"the numbers of {name!r:.80} lie outside of the file")
        # Kinds of a byte and more; smaller ones are refused when they are read.
        if math.prod(entry["shape"]) > end - start or min(entry["shape"], default=0) < 0:
            raise unpack.TooMuch(
                f"{name!r:.80} says it has {math.prod(entry['shape']):,} numbers, in "
                f"{end - start:,} bytes"
            )
    return table


def _msgpack(path: Path) -> dict[str, np.ndarray]:
    tree = serialization.msgpack_restore(path.read_bytes())
    flat = traverse_util.flatten_dict(tree)
    return {"/".join(map(str, n)): np.asarray(v) for n, v in flat.items() if v is not None}


def _weight_map(path: Path) -> dict[str, str]:
    advice = "It is no list of the parts of a model, or must be fetched again."
    found = forms.read(path, {"weight_map": {str: str}}, advice)
    for name in found["weight_map"].values():
        plain_name(name, f"{path}, weight_map")
    return found["weight_map"]


def _of_parts(path: Path, one: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Return what `one` finds in all files of an index, if it is what the index lists."""
    out, (_, *parts) = {}, files_of(path)
    for part in parts:
        out |= guarded(part, functools.partial(one, part))
    if missing := sorted(_weight_map(path).keys() - out.keys()):
        raise UserError(
            f"weights {path}: {len(missing)} of the listed arrays are in none of its files, "
            f"such as {missing[0]}. The files belong to different models; fetch them again."
        )
    return out


def _part(path: Path) -> dict[str, np.ndarray]:
    return _safetensors(path) if path.suffix == ".safetensors" else torch_file.read(path)


def _part_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    return _safetensors_shapes(path) if path.suffix == ".safetensors" else torch_file.shapes(path)


_READERS = {
    "npz": _npz,
    "safetensors": _safetensors,
    "msgpack": _msgpack,
    "index": lambda path: _of_parts(path, _part),
}
_SHAPES = {
    "npz": _npz_shapes,
    "safetensors": _safetensors_shapes,
    "torch": torch_file.shapes,
    "msgpack": lambda path: {n: a.shape for n, a in _msgpack(path).items()},
    "index": lambda path: _of_parts(path, _part_shapes),
}
