"""Prompts that start from class embeddings instead of random values.

A file (.npy) holds prototypes, N (L + 1) D: for each of N classes the mean class token before the
first layer (entry 0) and after each of the L layers, not normalised. The command
`class-embeddings` writes it. `init` chooses the entry that the prompts of layer i start from:

    cls-nolastl    entry i, what enters the layer
    cls-nofirstl   entry i + 1, what leaves the layer
    final-cls      entry L

VPT's ablation (Jia et al. 2022, arXiv 2203.12119, "prompt initialisation").
"""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone, Site
from vpjax.core import unpack
from vpjax.core.errors import UserError, unknown
from vpjax.core.reading import open_plain

MOST = np.finfo(np.float32).max
INITS = ("random", "final-cls", "cls-nolastl", "cls-nofirstl")


def read_prototypes(
    init: str, path: str, backbone: Backbone, num_tokens: int, sites: Sequence[Site]
) -> dict[int, Float[Array, "N D"]]:
    """Return the initial prompts (N D) of every layer of `sites`, by its index.

    Args:
        init: one of `INITS`, not "random".
        path: the file of prototypes.
        backbone: must have a class token and layers of one width.
        num_tokens: N, the number of prompts.
        sites: the layers that have prompts.

    Raises:
        UserError: if the file is missing, is not such an array, or does not fit.
    """
    if init not in INITS:
        raise unknown("init", init, INITS)
    dims = {s.dim for s in backbone.sites}
    if len(dims) > 1 or getattr(backbone, "cls_token", None) is None:
        raise UserError(f"init={init!r} needs a class token; {type(backbone).__name__} has none")
    depth, dim = len(backbone.sites), dims.pop()
    expected = (num_tokens, depth + 1, dim)
    if not path:
        raise UserError(f"init={init!r} needs init_path, a .npy file of shape {expected}")
    try:
        found = Path(path).expanduser()
        with open_plain(found) as file:
            values = unpack.read_npy(file, found.stat().st_size)
        shape = values.shape
        if values.dtype.kind not in "fiu" or not (np.abs(values) <= MOST).all():
            raise ValueError("it holds what is no number, or no finite one, in float32")
    except (OSError, ValueError, EOFError, AttributeError) as e:
        raise UserError(
            f"init_path {path} cannot be read: {e}. Expected a .npy file of shape {expected}; "
            "the command class-embeddings writes one."
        ) from e
    if shape != expected:
        raise UserError(
            f"init_path {path} has shape {shape}; num_tokens, layers + 1 and width are {expected}"
        )
    entry = {"final-cls": lambda i: depth, "cls-nolastl": lambda i: i}.get(init, lambda i: i + 1)
    return {s.index: jnp.asarray(values[:, entry(s.index)], jnp.float32) for s in sites}
