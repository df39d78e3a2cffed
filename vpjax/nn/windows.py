"""A grid of cells cut into square windows, for attention within them.

    grid 4 x 4, windows of 2:      a a b b        shifted by 1:      d c c d
                                   a a b b                           b a a b
                                   c c d d                           b a a b
                                   c c d d                           d c c d

Shifted windows connect cells that plain ones separate. Those at the edges hold cells from opposite
sides of the grid; a mask keeps these from attending to one another. Liu et al. 2021, arXiv
2103.14030, section 3.2.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

MASKED = -100.0


class Windows(NamedTuple):
    """How a grid is cut into W windows of T = size x size cells.

    Attributes:
        grid: rows and columns (h, w).
        size: edge of a window, in cells.
        shift: by how many cells the windows are moved down and right.
    """

    grid: tuple[int, int]
    size: int
    shift: int

    @classmethod
    def of(cls, grid: tuple[int, int], size: int, shifted: bool) -> "Windows":
        """Return the windows of a grid; one shrinks to the grid's shorter edge, then unshifted.

        Args:
            grid: rows and columns (h, w).
            size: edge of a window, in cells.
            shifted: whether windows are shifted by half their size.
        """
        if min(grid) <= size:
            return cls(grid, min(grid), 0)
        return cls(grid, size, size // 2 if shifted else 0)

    def divide(self, x: Shaped[Array, "B h w *F"]) -> Shaped[Array, "B W T *F"]:
        """Shift the grid round its edges, and cut it into windows."""
        batch, h, w, *rest = x.shape
        x = jnp.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x
        x = x.reshape(batch, h // self.size, self.size, w // self.size, self.size, *rest)
        return x.swapaxes(2, 3).reshape(batch, -1, self.size**2, *rest)

    def unite(self, x: Shaped[Array, "B W T *F"]) -> Shaped[Array, "B h w *F"]:
        """Join the windows to a grid again, which undoes `divide`."""
        batch, _, _, *rest = x.shape
        h, w = (n // self.size for n in self.grid)
        x = x.reshape(batch, h, w, self.size, self.size, *rest).swapaxes(2, 3)
        x = x.reshape(batch, *self.grid, *rest)
        return jnp.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x

    def mask(self) -> Float[Array, "W T T"]:
        """Return what is added to scores: `MASKED` between cells from opposite edges, else 0.

        Shifted windows at the lower and right edge hold cells of up to four regions; cells of the
        same region were neighbours before the shift.
        """
        cuts = [np.digitize(np.arange(n), (n - self.size, n - self.shift)) for n in self.grid]
        regions = jnp.asarray(3 * cuts[0][:, None] + cuts[1][None])  # h w, after the shift
        regions = self._replace(shift=0).divide(regions[None])[0]  # W T
        return jnp.where(regions[:, :, None] == regions[:, None, :], 0.0, MASKED)

    def positions(self) -> Int[np.ndarray, "T T"]:
        """Return the row of the bias table for query and key: (dy + w - 1) (2 w - 1) + dx + w - 1.

        w is the window's size; dy and dx are the key's offset from the query, in cells.
        """
        y, x = np.divmod(np.arange(self.size**2), self.size)
        dy, dx = (n[:, None] - n[None, :] + self.size - 1 for n in (y, x))
        return dy * (2 * self.size - 1) + dx
