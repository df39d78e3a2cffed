"""Rewrites weights as safetensors or npz, under the names they have.

    convert("mae_pretrain_vit_base.pth", "mae_b16.safetensors")

Loading needs no conversion: vpjax reads torch files itself. This is for the few that it cannot
read, for which torch is used if it is installed, and for sharing a file that cannot run code.
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
import safetensors.numpy

from vpjax.core import files
from vpjax.core.errors import UserError, unknown
from vpjax.weights import formats, torch_file
from vpjax.weights.download import fetch, sha256

UNSAFE = (
    "If it holds whole Python objects, and you trust where it comes from, give --unsafe: "
    "the file may then run any code."
)


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    force: bool = False,
    unsafe: bool = False,
) -> str:
    """Write the arrays of a file of weights to another file; return a line that describes it.

    Args:
        source: a path, an address or a name in the catalogue.
        target: a path that ends in ".safetensors" or ".npz".
        force: replace `target` if it exists.
        unsafe: let torch run whatever code `source` holds, for files of whole objects.

    Raises:
        UserError: if `source` cannot be read or `target` may not be written.
    """
    target = Path(target)
    write = {".npz": _write_npz, ".safetensors": _write_safetensors}.get(target.suffix)
    if write is None:
        raise unknown("kind of output", target.suffix, (".npz", ".safetensors"))
    if target.exists() and not force:
        raise UserError(f"{target} exists already. Give --force to replace it.")
    if not target.absolute().parent.is_dir():
        raise UserError(f"there is no folder {target.absolute().parent}. Make it first.")
    arrays = _read(fetch(source), unsafe)
    with files.atomic(target) as new:
        write(new, {n: np.asarray(a, order="C") for n, a in arrays.items()})
    size = target.stat().st_size
    return f"{target}  {len(arrays)} arrays  {size:,} bytes  sha256 {sha256(target)}"


def _read(path: Path, unsafe: bool) -> dict[str, np.ndarray]:
    if unsafe:
        if not _has_torch():
            raise UserError("--unsafe needs torch, which is not installed: pip install torch")
        return with_torch(path, unsafe=True)
    try:
        return formats.read(path)
    except UserError as error:
        if not _has_torch():
            hint = "With torch installed (pip install torch) more files can be converted."
            raise UserError(f"{error}\n{hint}") from error
        return with_torch(path)


def with_torch(path: Path, unsafe: bool = False) -> dict[str, np.ndarray]:
    """Return what torch finds in a file: a state dict, or with `unsafe` a module's.

    Raises: UserError if torch cannot read it either.
    """
    import torch

    try:
        tree = torch.load(path, map_location="cpu", weights_only=not unsafe)
    except Exception as e:  # of torch, pickle, zipfile and, with unsafe, of the file itself
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        hint = "" if unsafe else f"\n{UNSAFE}"
        raise UserError(f"torch cannot read {path}: {reason}{hint}") from e
    tree = tree.state_dict() if hasattr(tree, "state_dict") else tree
    tensors = torch_file.unwrap(tree, torch.Tensor)
    if not tensors:
        raise UserError(f"{path} holds a {type(tree).__name__} without arrays by name.")
    return {name: _to_numpy(tensor) for name, tensor in tensors.items()}


def _to_numpy(tensor) -> np.ndarray:
    tensor = tensor.detach()
    tensor = tensor.dequantize() if tensor.is_quantized else tensor.to_dense()
    narrow = tensor.is_floating_point() and tensor.itemsize < 4  # half, bfloat16, float8
    return (tensor.float() if narrow else tensor).numpy()


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as stream:  # given a name, numpy would add to it
        np.savez(stream, **arrays)


def _write_safetensors(path: Path, arrays: dict[str, np.ndarray]) -> None:
    safetensors.numpy.save_file(arrays, path)
    files.open_to_readers(path)
