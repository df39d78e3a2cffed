"""Position embeddings of a file on another grid of tokens.

P + h w rows    P prefix tokens with positions of their own, then the grid, row by row
"""

import math
from pathlib import Path

import numpy as np

from vpjax.core.errors import UserError
from vpjax.weights.resample import resize_grid


def fit_positions(
    positions: np.ndarray,
    grid: tuple[int, int],
    path: Path,
    resample: str = "align_corners",
    prefix: int = 1,
    source_grid: tuple[int, int] | None = None,
) -> tuple[np.ndarray, str]:
    """Resizes position embeddings to another token grid.

    Args:
        positions: (P + T) D, the prefix tokens' first.
        grid: rows and columns of the new grid.
        path: the file, for messages.
        resample: a rule of `vpjax.weights.resample`.
        prefix: P, rows that belong to tokens in front of the grid.
        source_grid: rows and columns of the file's grid; None: a square.

    Returns:
        Positions, (P + h w) D, and the change, such as "14x14 -> 8x8", or "".

    Raises:
        UserError: if T is not the square of a whole number, or not of `source_grid`.
    """
    count, new = len(positions) - prefix, math.prod(grid)
    edge = math.isqrt(max(count, 0))
    square = edge * edge == count
    flat = positions.ndim == 2
    if flat and source_grid is None and count == new and (grid[0] == grid[1] or not square):
        return positions, ""
    old = source_grid or (edge, edge)
    if not flat or count < 1 or math.prod(old) != count:
        have = str(count) if flat else f"an array {'x'.join(map(str, positions.shape))} of"
        wanted = "square grid" if source_grid is None else f"grid of {old[0]}x{old[1]}"
        raise UserError(
            f"weights {path}: {have} position embeddings are no {wanted}, without {prefix} of "
            f"tokens in front of the grid; the model's grid is {grid[0]}x{grid[1]}. Set "
            "backbone.image_size to the size the file was made for."
        )
    if old == tuple(grid):
        return positions, ""
    cells = positions[prefix:].reshape(*old, -1)
    cells = resize_grid(cells, grid, resample).reshape(new, -1)
    change = f"{old[0]}x{old[1]} -> {grid[0]}x{grid[1]}"
    return np.concatenate([positions[:prefix], cells]), change
