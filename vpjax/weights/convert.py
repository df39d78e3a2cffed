"""Weights of any readable kind into one that every tool reads, under their own names.

    python -m vpjax.weights.convert mae_pretrain_vit_base.pth mae_b16.safetensors
    python -m vpjax.weights.convert mae_b16 mae_b16.npz                 a known name, or an address

Loading needs no conversion: vpjax reads torch files itself. This is for the few it cannot read,
for which torch is used if it is installed, and for sharing a file that cannot run code.
"""

import argparse
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import safetensors.numpy

from vpjax.core.errors import UserError, unknown
from vpjax.weights import formats, torch_file
from vpjax.weights.download import fetch, sha256

UNSAFE = (
    "If it holds whole Python objects, and you trust where it comes from, give --unsafe: "
    "the file may then run any code."
)


def convert(source: str, target: Path, *, force: bool = False, unsafe: bool = False) -> str:
    """Writes the arrays of `source` (path, address or known name) to `target`; returns a summary.

    `unsafe` lets torch run what the file says, for files that hold whole objects.
    Raises: UserError if the source cannot be read or the target may not be written.
    """
    write = {".npz": _write_npz, ".safetensors": _write_safetensors}.get(target.suffix)
    if write is None:
        raise unknown("kind of output", target.suffix, (".npz", ".safetensors"))
    if target.exists() and not force:
        raise UserError(f"{target} exists already. Give --force to replace it.")
    if not target.absolute().parent.is_dir():
        raise UserError(f"there is no folder {target.absolute().parent}. Make it first.")
    path = fetch(source)
    arrays = _read(path, unsafe)
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        write(temporary, {n: np.ascontiguousarray(a) for n, a in arrays.items()})
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
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
            hint = "With torch installed (pip install torch) this command can read more files."
            raise UserError(f"{error}\n{hint}") from error
        return with_torch(path)


def with_torch(path: Path, unsafe: bool = False) -> dict[str, np.ndarray]:
    """Returns what torch finds in a file: a state dict, or with `unsafe` a module's.

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


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog=formats.CONVERT,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="IN", help="a path, an address or a known name")
    parser.add_argument("target", metavar="OUT", type=Path, help=".safetensors or .npz")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--unsafe", action="store_true", help="let torch run code in the file")
    flags = parser.parse_args(arguments)
    try:
        print(convert(flags.source, flags.target, force=flags.force, unsafe=flags.unsafe))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
