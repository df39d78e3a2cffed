"""Grids cut into windows: neighbours, shifts, masks, positions."""

import jax.numpy as jnp
import numpy as np
import pytest

from vpjax.nn.windows import MASKED, Windows


@pytest.mark.parametrize(
    ("grid", "size", "shift"),
    [((4, 4), 2, 1), ((6, 9), 3, 1), ((8, 16), 4, 2), ((4, 8), 4, 0), ((3, 6), 4, 0)],
)
def test_windows_and_their_inverse(grid, size, shift):
    windows = Windows.of(grid, size, shifted=True)
    assert windows == (grid, min(size, *grid), shift)
    x = np.random.default_rng(0).standard_normal((2, *grid, 3))
    cut = windows.divide(jnp.asarray(x, jnp.float32))
    assert cut.shape == (2, grid[0] * grid[1] // windows.size**2, windows.size**2, 3)
    np.testing.assert_array_equal(windows.unite(cut), np.float32(x))
    assert Windows.of(grid, size, shifted=False).shift == 0


def test_windows_hold_neighbours_round_the_edges():
    x = jnp.arange(16).reshape(1, 4, 4)
    plain = Windows((4, 4), 2, 0).divide(x)[0]
    np.testing.assert_array_equal(plain[1], [2, 3, 6, 7])
    shifted = Windows((4, 4), 2, 1).divide(x)[0]
    np.testing.assert_array_equal(shifted[0], [5, 6, 9, 10])
    np.testing.assert_array_equal(shifted[3], [15, 12, 3, 0])


@pytest.mark.parametrize(("grid", "size"), [((4, 4), 2), ((6, 9), 3), ((8, 16), 4)])
def test_the_shift_mask_parts_what_was_not_adjacent(grid, size):
    windows = Windows(grid, size, size // 2)
    y, x = (windows.divide(jnp.asarray(n)[None])[0] for n in np.indices(grid))
    # Cells of one window that were neighbours are less than a window apart.
    apart = lambda n: jnp.abs(n[:, :, None] - n[:, None, :]) >= size  # noqa: E731
    expected = jnp.where(apart(y) | apart(x), MASKED, 0.0)
    np.testing.assert_array_equal(windows.mask(), expected)
    assert (windows.mask() == MASKED).any()


def test_relative_positions():
    positions = Windows((6, 6), 3, 0).positions()
    assert positions.shape == (9, 9)
    assert set(np.diag(positions)) == {12}  # in the middle of 25 rows
    assert positions[0, 8] == 0  # two up, two left
    assert positions[8, 0] == 24
    assert positions[1, 0] == 13  # the query stands right of the key
    assert positions[3, 0] == 17  # and below
