"""Attention of each token to the neighbourhood of its own position in another map of tokens.

    a cell (u, v)                     attends to the 3 x 3 cells around (u, v) of the other map
    a prefix token (class token)      attends to all its tokens

Two functions, which differ by far more than rounding (SA2VP, arXiv 2312.10376, and its later code):

    aligned   all heads; a cell at the border has fewer neighbours: 6 at an edge, 4 in a corner
    acc       one head of full width; what lies outside the map is a key and a value of zeros

Two forms of each, equal to rounding:

    rows      a row of cells attends to the three rows around it, with all but the neighbouring
              columns masked: 3 w scores a cell, from three copies of the other map
    dense     all h w scores, those of other cells masked; for any queries
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vpjax.core.errors import UserError, unknown
from vpjax.nn.attention import attention

VARIANTS = ("aligned", "acc")
FORMS = ("rows", "dense")


def check(variant: str, form: str) -> None:
    """Check the names of a variant and a form.

    Raises:
        UserError: if one of them is unknown.
    """
    if variant not in VARIANTS:
        raise unknown("cross_attn", variant, VARIANTS)
    if form not in (*FORMS, "auto"):
        raise unknown("cross_impl", form, (*FORMS, "auto"))


def local_attention(
    q: Float[Array, "#B K N d"],
    k: Float[Array, "B L N d"],
    v: Float[Array, "B L N d"],
    grid: tuple[int, int],
    variant: str = "aligned",
    form: str = "auto",
) -> Float[Array, "B K N d"]:
    """Return what the first K tokens of one map gather from their neighbourhoods in another.

    Args:
        q: queries of the first K tokens of one map; a batch of 1 is repeated.
        k: keys of the other map, L = prefix tokens + h w.
        v: values of the other map.
        grid: rows and columns (h, w) of both maps.
        variant: the function, "aligned" or "acc"; see above.
        form: how it is computed, "rows" or "dense"; "auto": "rows". With K < L it is "dense".

    Raises:
        UserError: for an unknown variant or form.
    """
    check(variant, form)
    heads = q.shape[2:]
    q = jnp.broadcast_to(q, (k.shape[0], *q.shape[1:]))
    if variant == "acc":
        q, k, v = (x.reshape(*x.shape[:2], 1, -1) for x in (q, k, v))
    call = _dense if form == "dense" or q.shape[1] < k.shape[1] else _rows
    y = call(q, k, v, grid, ring=variant == "acc")
    return y.reshape(*y.shape[:2], *heads)


def neighbours(grid: tuple[int, int], num_prefix_tokens: int) -> Bool[np.ndarray, "L L"]:
    """Return which token (row) attends to which (column).

    Prefix tokens attend to all tokens, and only prefix tokens attend to them.

    Args:
        grid: rows and columns (h, w).
        num_prefix_tokens: tokens before the grid; L is their number plus h w.

    Raises:
        UserError: if the grid is empty.
    """
    if min(grid) < 1:
        raise UserError(f"a grid of {grid} has no cells")
    y, x = np.divmod(np.arange(math.prod(grid)), grid[1])
    near = (abs(y[:, None] - y) <= 1) & (abs(x[:, None] - x) <= 1)
    first = num_prefix_tokens
    return np.pad(near, ((first, 0), (first, 0))) | (np.arange(first + len(y)) < first)[:, None]


def _dense(q: Array, k: Array, v: Array, grid: tuple[int, int], ring: bool) -> Array:
    length, extra = q.shape[1], k.shape[1] - math.prod(grid)
    seen = neighbours(grid, extra)[:length]
    outside = np.where(np.arange(length) < extra, 0, 9 - seen[:, extra:].sum(1))
    return _masked(q, k, v, seen[None], outside[None] if ring else None)


def _rows(q: Array, k: Array, v: Array, grid: tuple[int, int], ring: bool) -> Array:
    (h, w), extra = grid, k.shape[1] - math.prod(grid)
    first = attention(q[:, :extra], k, v)  # B E N d
    seen = np.pad(neighbours(grid, 0).reshape(h, w, h, w), ((0, 0), (0, 0), (1, 1), (0, 0)))
    seen = np.stack([seen[y, :, y : y + 3].reshape(w, 3 * w) for y in range(h)])

    def three(x):  # the rows around each row: (B h) 3w N d
        x = x[:, extra:].reshape(x.shape[0], h, w, *x.shape[2:])
        x = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
        x = jnp.concatenate([x[:, y : y + h] for y in range(3)], axis=2)
        return x.reshape(-1, 3 * w, *x.shape[3:])

    own = q[:, extra:].reshape(-1, w, *q.shape[2:])
    y = _masked(own, three(k), three(v), seen, 9 - seen.sum(-1) if ring else None)
    return jnp.concatenate([first, y.reshape(q.shape[0], h * w, *y.shape[2:])], axis=1)


def _masked(
    q: Array,
    k: Array,
    v: Array,
    seen: Bool[np.ndarray, "W L S"],
    outside: Int[np.ndarray, "W L"] | None,
) -> Array:
    """Attend to the keys in `seen` and, with `outside`, to so many keys and values of zeros."""
    bias = np.where(seen, 0.0, -np.inf)
    if outside is not None:
        # n keys of zeros weigh as much as one whose score is log n.
        with np.errstate(divide="ignore"):
            bias = np.concatenate([bias, np.log(outside)[..., None]], axis=-1)
        k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (k, v))
    bias = jnp.asarray(bias, jnp.float32)[:, None]  # W 1 L S
    return attention(
        q, k, v, bias=jnp.broadcast_to(bias, (bias.shape[0], q.shape[2], *bias.shape[2:]))
    )
