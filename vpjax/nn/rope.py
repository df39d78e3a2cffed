"""Rotary positions: queries and keys of grid tokens are turned by angles of their row and column.

    y = x cos(a) + turn(x) sin(a)          a: h w x d, half of it for rows, half for columns

Products of queries and keys then depend on the distance of their cells. Su et al. 2021, arXiv
2104.09864. Prefix tokens and prompts have no cell and are not turned. Two forms:

    eva      pairs of neighbours turn; angle = row theta^(-4 j / d), on a reference grid if given
             Fang et al. 2023, arXiv 2303.11331
    dinov3   channel j turns with j + d/2; angle = 2 pi theta^(-4 j / d) times the place of the
             cell's centre between -1 and 1. Siméoni et al. 2025, arXiv 2508.10104
"""

import dataclasses
import functools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vpjax.core.errors import UserError, unknown

THETA = {"eva": 10000.0, "dinov3": 100.0}


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary positions of a grid.

    Attributes:
        kind: "eva" or "dinov3".
        grid: rows and columns (h, w) of the tokens.
        head_dim: d, a multiple of 4.
        theta: base of the frequencies; None: the usual one of the kind.
        reference: "eva": rows and columns of the grid that distances are measured on; None: `grid`.

    Raises:
        UserError: for an unknown kind, or a width that does not divide by 4.
    """

    kind: str
    grid: tuple[int, int]
    head_dim: int
    theta: float | None = None
    reference: tuple[int, int] | None = None

    def __post_init__(self):
        if self.kind not in THETA:
            raise unknown("rope", self.kind, THETA)
        if self.head_dim % 4:
            raise UserError(
                f"rotary positions need heads whose width divides by 4, not {self.head_dim}"
            )

    def __call__(self, x: Float[Array, "B K N d"], first: int) -> Float[Array, "B K N d"]:
        """Turn queries or keys of tokens from position `first` on; those are the grid's, in order.

        Fewer than h w may follow: they are the first of the grid.
        """
        count = x.shape[1] - first
        if count <= 0:
            return x
        cos, sin = (jnp.asarray(t[:count, None]) for t in _tables(self))  # K' 1 d
        cells = x[:, first:].astype(jnp.float32)
        turned = (cells * cos + self._turn(cells) * sin).astype(x.dtype)
        return jnp.concatenate([x[:, :first], turned], axis=1) if first else turned

    def _turn(self, x: Float[Array, "*B d"]) -> Float[Array, "*B d"]:
        if self.kind == "dinov3":
            a, b = jnp.split(x, 2, axis=-1)
            return jnp.concatenate([-b, a], axis=-1)
        pairs = x.reshape(*x.shape[:-1], -1, 2)
        return jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)


@functools.lru_cache(maxsize=16)
def _tables(rope: Rope) -> tuple[np.ndarray, np.ndarray]:
    """Return cos and sin of the angles, each h w d."""
    theta, bands = rope.theta or THETA[rope.kind], rope.head_dim // 4
    frequency = theta ** -(np.arange(bands) / bands)
    if rope.kind == "dinov3":
        places = [2 * (np.arange(n) + 0.5) / n - 1 for n in rope.grid]
        frequency = 2 * math.pi * frequency
    else:
        reference = rope.reference or rope.grid
        places = [np.arange(n) * (r / n) for n, r in zip(rope.grid, reference, strict=True)]
    cells = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    angles = (cells * frequency).reshape(len(cells), -1)  # h w d/2: rows, then columns
    angles = np.tile(angles, 2) if rope.kind == "dinov3" else np.repeat(angles, 2, axis=-1)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
