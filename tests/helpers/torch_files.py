"""Writes torch files without torch."""

import collections
import io
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}


class _Tensor:
    def __init__(self, array: np.ndarray):
        self.array = np.array(array, order="C")


class _Storage:
    def __init__(self, *pid: Any):
        self.pid = pid


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, torch: types.ModuleType, rebuild: Any):
        super().__init__(stream, 2)
        self.torch, self.rebuild, self.data = torch, rebuild, []

    def persistent_id(self, obj: Any) -> Any:
        return obj.pid if isinstance(obj, _Storage) else None

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, _Tensor):
            return NotImplemented
        array, key = obj.array, str(len(self.data))
        self.data.append(array.tobytes())
        kind = getattr(self.torch, STORAGES[str(array.dtype)])
        strides = tuple(s // array.itemsize for s in array.strides)
        arguments = (_Storage("storage", kind, key, "cpu", array.size), 0, array.shape, strides)
        return self.rebuild, (*arguments, False, collections.OrderedDict())


class _Module:
    """A module of a program: what a file calls `__torch__.Module`."""


_Module.__module__, _Module.__qualname__, _Module.__name__ = "__torch__", "Module", "Module"


def write(path: Path, tree: Any, program: bool = False) -> Path:
    """Write a tree of dictionaries, lists and arrays as `torch.save` does; return the path.

    Args:
        path: the file.
        tree: what it holds; arrays in a tuple stay arrays of numpy, all others become tensors.
        program: as `torch.jit.save` does, with names split at their points into modules.
    """
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def rebuild(*_: Any) -> None:
        raise NotImplementedError

    rebuild.__module__ = "torch._utils"
    rebuild.__qualname__ = rebuild.__name__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    code = types.ModuleType("__torch__")
    code.Module = _Module
    modules = {"torch": torch, "torch._utils": utils, "__torch__": code}
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        stream = io.BytesIO()
        pickler = _Pickler(stream, torch, rebuild)
        pickler.dump(_with_tensors(_modules(tree) if program else tree))
    finally:
        for name, module in before.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, data in enumerate(pickler.data):
            archive.writestr(f"archive/data/{key}", data)
        if program:
            archive.writestr("archive/constants.pkl", pickle.dumps((), 2))
            archive.writestr("archive/code/__torch__.py", "class Module(Module):\n  pass\n")
    return path


def _modules(arrays: dict[str, Any]) -> _Module:
    """Return arrays by name as attributes of nested modules."""
    root = _Module()
    for name, array in arrays.items():
        *path, last = name.split(".")
        place = root
        for step in path:
            place = place.__dict__.setdefault(step, _Module())
        place.__dict__[last] = array
    for module in [root, *(v for v in root.__dict__.values() if isinstance(v, _Module))]:
        module.training = False
    return root


def _with_tensors(tree: Any) -> Any:
    if isinstance(tree, np.ndarray | np.generic):
        return _Tensor(np.asarray(tree))
    if isinstance(tree, _Module):
        out = _Module()
        out.__dict__.update(_with_tensors(vars(tree)))
        return out
    if isinstance(tree, dict):
        return {key: _with_tensors(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tree[0]
    return [_with_tensors(v) for v in tree] if isinstance(tree, list) else tree
