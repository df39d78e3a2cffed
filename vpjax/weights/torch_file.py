"""Reads the arrays of a torch file (.pth, .pt, .pth.tar) without torch and without running code.

    zip      name/data.pkl, name/data/0, name/data/1 ...              torch 1.6 and later
             of a TorchScript program too: its arrays by the names of its state dict
    legacy   pickles: magic, version, machine, tree, storage keys;    older, and still written
             then for each key: count of numbers (8 bytes), numbers

The tree is a pickle, and a pickle is a program: an ordinary reader imports and calls whatever the
file names. Here only the few functions of `_ALLOWED` are called, which build dictionaries and
tensors; any other name (argparse.Namespace, an optimiser, os.system) becomes an object that does
nothing. Numbers are read for the chosen part of the tree only, so an optimiser's state costs no
memory.
"""

import contextlib
import io
import itertools
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from vpjax.core import numpy_pickle, pickle_check, unpack
from vpjax.core.numpy_pickle import Array

# Keys below which training scripts store the model's arrays, in the order of search, at most two
# levels deep. For files that hold no backbone that is known; else see `vpjax.weights.anchor`.
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "model_ema", "teacher")
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # begins a legacy file

STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


VISITS = 1_000_000  # values in nested containers
CONSTANTS = ("attn_mask",)  # tensors of programs that are no parameters: of CLIP's text encoder


class Unsupported(Exception):
    """An undamaged file with something in it that only torch can read."""


# Chooses from the names in a file: {name there: name to return}.
Pick = Callable[[Collection[str]], Mapping[str, str]]


class Tensor(NamedTuple):
    """A strided view of a storage, counted in elements; nothing is read yet."""

    storage: "Storage"
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Storage(NamedTuple):
    """A run of `count` numbers in the file."""

    key: str
    dtype: np.dtype
    count: int


Numbers = Callable[[Storage], bytes]


def read(path: Path, pick: Pick | None = None) -> dict[str, np.ndarray]:
    """Return arrays of a torch file; tensors that share memory still do.

    Args:
        path: the file.
        pick: chooses from all names, keys of nested trees joined by "/"; None: the arrays below the
            first of `WRAPPERS`. The rest is not read.

    Raises: Unsupported if only torch can read it; nearly any exception if the file is damaged.
    """
    with _opened(path) as (tree, numbers):
        tensors = (
            _some(unwrap(tree, Tensor | Array), tree)
            if pick is None
            else _some(flatten(tree), tree)
        )
        if pick is not None:
            tensors = {ours: tensors[name] for name, ours in pick(tensors.keys()).items()}
        _check_total(tensors, path.stat().st_size)
        flat = {t.storage: None for t in tensors.values() if isinstance(t, Tensor)}
        for storage in flat:
            flat[storage] = np.frombuffer(numbers(storage), storage.dtype)
        return {
            name: t.value if isinstance(t, Array) else _view(t, flat[t.storage])
            for name, t in tensors.items()
        }


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all arrays of a torch file, without reading their numbers.

    Names are those that `read` gives to `pick`.
    """
    with _opened(path) as (tree, _):
        tensors = _some(flatten(tree), tree)
        _check_total(tensors, path.stat().st_size)
        return {name: tensor.shape for name, tensor in tensors.items()}


def flatten(tree: Any) -> dict[str, Tensor | Array]:
    """Return all tensors of nested containers, keys joined by "/".

    Raises: ValueError for containers that hold themselves over and over.
    """
    out, visits = {}, itertools.count(1)

    def visit(value: Any, place: str) -> None:
        if next(visits) > VISITS:
            raise ValueError("its containers hold themselves over and over")
        if isinstance(value, Tensor | Array):
            out[place] = value
        elif isinstance(value, Mapping | list | tuple):
            inside = value.items() if isinstance(value, Mapping) else enumerate(value)
            for key, inner in inside:
                visit(inner, f"{place}/{key}" if place else str(key))

    visit(tree, "")
    return out


def _check_total(tensors: Mapping[str, Any], size: int) -> None:
    """Check that views of a few numbers do not promise more than the file can hold.

    Raises: unpack.TooMuch if they do.
    """
    total = sum(8 * math.prod(t.shape) for t in tensors.values() if isinstance(t, Tensor))
    if total > 2 * unpack.most(size):
        raise unpack.TooMuch(f"its tensors have {total // 8:,} numbers, in {size:,} bytes")


def unwrap(tree: Any, kind: Any, depth: int = 3) -> dict[str, Any]:
    """Return the arrays, values of type `kind`, in the first of `WRAPPERS`, else in `tree`."""
    if not isinstance(tree, Mapping) or not depth:
        return {}
    for name in WRAPPERS:
        if inside := unwrap(tree.get(name), kind, depth - 1):
            return inside
    return {n: v for n, v in tree.items() if isinstance(n, str) and isinstance(v, kind)}


def _some(tensors: dict[str, Any], tree: Any) -> dict[str, Any]:
    if not tensors:
        found = f"a {type(tree).__name__}"
        if isinstance(tree, Mapping):
            found = [key for key in tree if isinstance(key, str | int)][:8]
        raise Unsupported(f"it holds no dictionary of arrays; found {found}")
    return tensors


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Numbers]]:
    with open(path, "rb") as stream:
        legacy = stream.read(len(MAGIC)) == MAGIC
        stream.seek(0)
        yield (_legacy if legacy else _zip)(stream)


def _zip(stream: BinaryIO) -> tuple[Any, Numbers]:
    archive = zipfile.ZipFile(stream)
    unpack.check_zip(archive, os.fstat(stream.fileno()).st_size)
    names = archive.namelist()
    root = next(n for n in names if n.endswith("data.pkl")).removesuffix("data.pkl")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise Unsupported("its numbers are big-endian")
    data = archive.read(f"{root}data.pkl")
    _, tree = _loaded(io.BytesIO(data), len(data))
    if isinstance(tree, _Module):
        tree = _state_dict(tree)
    return tree, lambda storage: archive.read(f"{root}data/{storage.key}")


def _state_dict(module: "_Module", place: str = "") -> dict[str, Tensor]:
    """Return the tensors of a TorchScript program by the names that torch gives them."""
    out = {}
    for name, value in module.items():
        if isinstance(value, Tensor) and name not in CONSTANTS:
            out[f"{place}{name}"] = value
        elif isinstance(value, _Module):
            out |= _state_dict(value, f"{place}{name}.")
    return out


def _legacy(stream: BinaryIO) -> tuple[Any, Numbers]:
    size = os.fstat(stream.fileno()).st_size
    _, _, machine = (_loaded(stream, size)[1] for _ in range(3))
    if not machine["little_endian"]:
        raise Unsupported("its numbers are big-endian")
    unpickler, tree = _loaded(stream, size)
    places = {}
    for key in _loaded(stream, size)[1]:
        storage = unpickler.storages[key]
        if int.from_bytes(stream.read(8), "little") != storage.count:
            raise EOFError(f"storage {key} has another size than announced")
        places[key] = stream.tell()
        end = stream.seek(storage.count * storage.dtype.itemsize, io.SEEK_CUR)
        if end > size:
            raise EOFError(f"it ends within storage {key}")

    def numbers(storage: Storage) -> bytes:
        stream.seek(places[storage.key])
        return stream.read(storage.count * storage.dtype.itemsize)

    return tree, numbers


def _loaded(stream: BinaryIO, size: int) -> tuple["_Unpickler", Any]:
    """Return the reader of the pickle that begins here, and what it holds."""
    pickle_check.check(stream, size)
    unpickler = _Unpickler(pickle_check.Bounded(stream, size))
    return unpickler, unpickler.load()


def _view(tensor: Tensor, numbers: np.ndarray) -> np.ndarray:
    storage, offset, shape, strides = tensor
    if len(numbers) != storage.count:
        raise EOFError(f"storage {storage.key} has {len(numbers)} of {storage.count} numbers")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if min((offset, *shape, *strides)) < 0 or (math.prod(shape) and last >= storage.count):
        raise ValueError(f"a tensor reaches outside storage {storage.key}")
    steps = [s * numbers.itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps, writeable=False)


class _Unpickler(pickle.Unpickler):
    """Builds containers and tensors; imports nothing and calls nothing of the file's choice."""

    def __init__(self, stream: BinaryIO):
        super().__init__(stream, encoding="latin1")  # of names that Python 2 wrote
        self.storages: dict[str, Storage] = {}
        self.inert: dict[str, type] = {}

    def find_class(self, module: str, name: str) -> Any:
        if name in STORAGES:
            return name
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if found := numpy_pickle.allowed(module, name):
            return found
        if module.partition(".")[0] == "__torch__":
            return _Module
        if module == "torch._utils" and name.startswith("_rebuild"):
            raise Unsupported(f"it holds tensors of a special kind ({name})")
        key = f"{module}.{name}"
        if key not in self.inert:
            self.inert[key] = type(key, (_Inert,), {})
        return self.inert[key]

    def persistent_load(self, pid: Any) -> Storage:
        _, kind, key, _, count = pid[:5]
        if not isinstance(key, str | int):
            raise TypeError("a storage without a name")
        if not isinstance(kind, str) or kind not in STORAGES or pid[5:] not in ((), (None,)):
            kind = kind if isinstance(kind, str) else getattr(kind, "__name__", type(kind).__name__)
            raise Unsupported(f"it holds numbers of a special kind ({kind})")
        storage = Storage(str(key), np.dtype(STORAGES[kind]), int(count))
        return self.storages.setdefault(storage.key, storage)


class _Inert:
    """Stands for any object: takes whatever it is given and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any):
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    extend = add = append


class _Builder:
    """A function that a file may call; what a file sets on it is ignored."""

    def __init__(self, function: Callable):
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __setstate__(self, state: Any) -> None:
        pass


class _Dict(dict):
    """Stands for OrderedDict; a state dict's table of versions, an attribute, is ignored."""

    def __setstate__(self, state: Any) -> None:
        pass


def _ordered(pairs: Any = ()) -> _Dict:
    """Return the dictionary of pairs, as Python 2 wrote them; only plain keys are hashed."""
    pairs = list(pairs.items() if isinstance(pairs, dict) else pairs)
    if not all(isinstance(key, str | int | float | None) for key, _ in pairs):
        raise TypeError("a dictionary with keys that are no text")
    return _Dict(pairs)


class _Module(dict):
    """Stands for a module of a TorchScript program: its attributes. Its code is not read."""

    def __new__(cls, *_: Any):
        return super().__new__(cls)

    def __init__(self, *_: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.update(state if isinstance(state, dict) else {})


def _tensor(storage: Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    return Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


_ALLOWED = {
    ("collections", "OrderedDict"): _Builder(_ordered),
    ("torch", "Size"): _Builder(tuple),
    ("builtins", "set"): _Builder(list),  # a set hashes what is in it
    ("__builtin__", "set"): _Builder(list),
    ("torch._utils", "_rebuild_tensor"): _Builder(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Builder(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Builder(lambda data, *_: data),
    ("torch._utils", "_rebuild_parameter_with_state"): _Builder(lambda data, *_: data),
    ("torch._tensor", "_rebuild_from_type_v2"): _Builder(lambda build, _, args, *__: build(*args)),
}
