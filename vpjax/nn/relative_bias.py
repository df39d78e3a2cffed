"""Relative position bias of BEiT: a learnt number for each head and offset, added to scores.

    row (dy + h - 1)(2 w - 1) + dx + w - 1      two cells, dy = row of the query - row of the key
    the last three rows                         class token to cells, cells to it, it to itself

Bao et al. 2022, arXiv 2106.08254. Prompts and other prefix tokens get 0, as they have no place.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def table_length(grid: tuple[int, int]) -> int:
    """Return the number of rows of the table of a grid (h, w): (2 h - 1)(2 w - 1) + 3."""
    h, w = grid
    return (2 * h - 1) * (2 * w - 1) + 3


def bias_of(
    table: Float[Array, "T N"], grid: tuple[int, int], length: int, extra: int = 0
) -> Float[Array, "1 N L S"]:
    """Return what is added to the scores of L tokens: class token, prompts, cells of the grid.

    Args:
        table: rows as above.
        grid: rows and columns (h, w) of the cells, which are the last h w tokens.
        length: L.
        extra: further keys before the tokens, so that S = extra + L.
    """
    cells = math.prod(grid)
    own = table[_rows(grid)].transpose(2, 0, 1)  # N (1 + h w) (1 + h w)
    prompts = length - cells - 1
    zeros = lambda y, axis, count: jnp.insert(y, np.full(count, 1), 0, axis=axis)  # noqa: E731
    if prompts:
        own = zeros(zeros(own, 1, prompts), 2, prompts)
    return jnp.pad(own, ((0, 0), (0, 0), (extra, 0)))[None]


def _rows(grid: tuple[int, int]) -> np.ndarray:
    """Return the row of the table for every query and key, (1 + h w) squared."""
    h, w = grid
    y, x = np.divmod(np.arange(h * w), w)
    rows = np.empty((1 + h * w, 1 + h * w), int)
    rows[1:, 1:] = (y[:, None] - y + h - 1) * (2 * w - 1) + x[:, None] - x + w - 1
    rows[0, :], rows[:, 0], rows[0, 0] = table_length(grid) - np.array([3, 2, 1])
    return rows
