"""Tables of relative positions of a file, BEiT's, on another grid of tokens.

(2 h - 1)(2 w - 1) rows of offsets between cells, row by row, then 3 rows of the class token, which
stay. See `vpjax.nn.relative_bias`. The offsets are resized as a grid is; with the rule "bicubic",
which is timm's, they are taken to lie at 0, 1, 1 + q, 1 + q + q^2 ... cells, the last at the border
of the new grid, and new offsets linearly between: BEiT's rule (Bao et al. 2022, arXiv 2106.08254).
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vpjax.core.errors import UserError
from vpjax.weights.resample import resize_grid

TABLE = "attn/relative_bias"
OWN = 3  # rows of the class token


def fit_tables(
    values: Mapping[str, np.ndarray],
    grid: tuple[int, int],
    path: Path,
    resample: str,
    source_grid: tuple[int, int] | None = None,
) -> tuple[dict[str, np.ndarray], str]:
    """Resize the tables of all layers to another token grid.

    Args:
        values: arrays by our names.
        grid: rows and columns of the new grid.
        path: the file, for messages.
        resample: a rule of `vpjax.weights.resample`.
        source_grid: rows and columns of the file's grid; None: a square.

    Returns:
        The arrays with their tables resized, and the change, such as "14x14 -> 8x8", or "".

    Raises:
        UserError: if a table is of no square grid, or not of `source_grid`.
    """
    out, change = dict(values), ""
    for name, table in values.items():
        if not name.endswith(TABLE):
            continue
        count = len(table) - OWN
        edge = (math.isqrt(max(count, 0)) + 1) // 2
        old = source_grid or (edge, edge)
        if source_grid is None and count == offsets(grid) != offsets(old):
            continue  # not of a square, but of the model's grid
        if count != offsets(old):
            raise UserError(
                f"weights {path}: {name} has {len(table)} rows, which are no table of a grid of "
                f"{old[0]}x{old[1]}. Set backbone.image_size to the size the file was made for."
            )
        if old != tuple(grid):
            cells = table[:-OWN].reshape(2 * old[0] - 1, 2 * old[1] - 1, -1)
            resize = _resize_offsets if resample == "bicubic" else resize_grid
            cells = resize(cells, (2 * grid[0] - 1, 2 * grid[1] - 1), resample)
            out[name] = np.concatenate([cells.reshape(offsets(grid), -1), table[-OWN:]])
            change = f"{old[0]}x{old[1]} -> {grid[0]}x{grid[1]}"
    return out, change


def offsets(grid: tuple[int, int]) -> int:
    """Return how many offsets there are between the cells of a grid."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1)


def _resize_offsets(cells: np.ndarray, grid: tuple[int, int], rule: str) -> np.ndarray:
    rows, columns = (_between(old, new) for old, new in zip(cells.shape[:2], grid, strict=True))
    out = np.einsum("ih,jw,hwd->ijd", rows, columns, cells.astype(np.float64))
    return out.astype(cells.dtype)


def _between(old: int, new: int) -> np.ndarray:
    """Return the matrix (new old) that reads offsets between those at a geometric progression."""
    steps, border = np.arange(old // 2), new // 2
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if (q**steps).sum() > border else (q, high)
    far = np.cumsum(q**steps)
    places = np.concatenate([-far[::-1], [0.0], far])
    wanted = np.arange(new) - border
    return np.stack([np.interp(wanted, places, row) for row in np.eye(old)], axis=1)
