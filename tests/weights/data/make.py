"""Makes the small torch files beside it, and the arrays that must come out of them.

python -m tests.weights.data.make [FOLDER]          with torch; the files here: torch 2.13

zip.pth          today's form: {"model": ..., "optimizer": ..., "args": Namespace, "epoch": 3}
legacy.pth.tar   the form before torch 1.6: the same under "state_dict", names after "module."
expected.npz     the arrays of both, under the names of zip.pth
"""

import argparse
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch


def state() -> "OrderedDict[str, torch.Tensor]":
    """Returns one tensor of every kind that files of weights hold."""
    draw = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 4, generator=draw)
    return OrderedDict(
        {
            "plain": torch.randn(3, 5, generator=draw),
            "parameter": torch.nn.Parameter(torch.randn(4, generator=draw)),
            "transposed": torch.randn(2, 3, 4, generator=draw).permute(2, 0, 1),
            "shared": whole,
            "shared.rows": whole[2:5],
            "shared.column": whole[:, 1],
            "repeated": torch.randn(3, 1, generator=draw).expand(3, 4),
            "half": torch.randn(7, generator=draw).half(),
            "bfloat16": torch.randn(2, 2, generator=draw).bfloat16().t(),
            "double": torch.randn(2, generator=draw).double(),
            "long": torch.arange(-2, 3),
            "bytes": torch.tensor([0, 255], dtype=torch.uint8),
            "flags": torch.tensor([True, False, True]),
            "scalar": torch.tensor(7),
            "empty": torch.zeros(0, 3),
        }
    )


def trained() -> dict:
    """Returns the state of an optimiser that has made a step."""
    weight = torch.nn.Parameter(torch.ones(3, 2))
    optimiser = torch.optim.AdamW([weight], lr=0.1)
    weight.sum().backward()
    optimiser.step()
    return optimiser.state_dict()


def make(folder: Path) -> None:
    """Writes the files."""
    arrays = state()
    arrays._metadata = OrderedDict({"": {"version": 1}})  # as Module.state_dict leaves it
    rest = {"optimizer": trained(), "args": argparse.Namespace(lr=0.1, parts=[1, 2]), "epoch": 3}
    rest |= {"classes": {"cat", "dog"}, "score": np.float64(0.5), "shape": torch.Size([2, 3])}
    torch.save({"model": arrays, **rest}, folder / "zip.pth")
    after = OrderedDict((f"module.{n}", t) for n, t in arrays.items())
    legacy = {"epoch": 3, "arch": "vit", "state_dict": after, **rest}
    torch.save(legacy, folder / "legacy.pth.tar", _use_new_zipfile_serialization=False)
    np.savez_compressed(folder / "expected.npz", **{n: numpy(t) for n, t in arrays.items()})


def numpy(tensor: torch.Tensor) -> np.ndarray:
    """Returns a tensor's numbers, half precision as float32."""
    narrow = tensor.dtype in (torch.half, torch.bfloat16)
    return (tensor.float() if narrow else tensor).detach().numpy()


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
