"""Our numbers for the peers: names and axes of ours turned into PyTorch's.

Peers name their parts as we do, so that rules do: "/" becomes ".", a kernel a weight with outputs
first, query, key and value one matrix.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

ENDINGS = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
FUSED = ("query", "key", "value")


def translate(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays by the peers' names; `values` has all or none of query, key and value."""
    out: dict[str, np.ndarray] = {}
    for name, value in values.items():
        *path, last = name.split("/")[1:]
        value = np.asarray(value)
        if path and path[-1] in FUSED:
            if path[-1] != FUSED[0]:
                continue
            three = [values[name.replace("/query/", f"/{part}/")] for part in FUSED]
            flat = [np.reshape(v, (len(v), -1) if last == "kernel" else (-1,)) for v in three]
            value, path = np.concatenate(flat, axis=-1), [*path[:-1], "qkv"]
        elif path and path[-1] == "out" and last == "kernel":
            value = value.reshape(-1, value.shape[-1])  # N d D
        if last == "kernel":
            value = value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)
        elif last.endswith("_prompt"):
            value = value.transpose(2, 0, 1)[None]  # 1 C n n
        out[".".join([*path, ENDINGS.get(last, last)])] = value
    return out


def load(peer: nn.Module, values: Mapping[str, np.ndarray]) -> None:
    """Fills the peer with the numbers of our model, given by our names.

    Raises: RuntimeError if names or shapes differ.
    """
    found = {n: torch.tensor(np.ascontiguousarray(v)) for n, v in named(peer, values).items()}
    own = peer.state_dict()
    uncounted = {n: v for n, v in own.items() if n.endswith("num_batches_tracked")}
    peer.load_state_dict(found | uncounted)


def named(peer: nn.Module, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return `translate(values)` by the names of this peer, which may have its network inside."""
    own = peer.state_dict()
    return {n if n in own else f"network.{n}": v for n, v in translate(values).items()}
