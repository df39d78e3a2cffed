"""Attention to the same place in another map of tokens.

    a cell (u, v)                     looks at the 3 x 3 cells around (u, v) of the other map
    an extra token (class token)      looks at all its tokens

Two functions, which differ by far more than rounding (SA2VP, arXiv 2312.10376, and its later code):

    aligned   all heads; a cell at the border has fewer neighbours: 6 at an edge, 4 in a corner
    acc       one head of full width; what lies outside the map is a key and a value of zeros

Two forms of each, equal to rounding:

    dense     all scores, those of other cells masked: one matrix product, of size (h w)^2
    shift     nine shifted copies of the other map: of size 9 h w, for large grids
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vpjax.attention import attention
from vpjax.errors import UserError, unknown

VARIANTS = ("aligned", "acc")
FORMS = ("dense", "shift")
DENSE_CELLS = 19 * 19  # dense scores need less memory up to here, shifted copies beyond (CPU)
SHIFTS = tuple((dy, dx) for dy in range(3) for dx in range(3))


def check(variant: str, form: str) -> None:
    """Raises a UserError for an unknown variant or form."""
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
    """Returns what the first K tokens of one map read from the other; L = extra + h w.

    `form` "auto" is the leaner one for the grid.
    Raises: UserError for an unknown variant or form.
    """
    check(variant, form)
    heads = q.shape[2:]
    q = jnp.broadcast_to(q, (len(k), *q.shape[1:]))
    if variant == "acc":
        q, k, v = (x.reshape(*x.shape[:2], 1, -1) for x in (q, k, v))
    if form == "auto":
        form = "dense" if math.prod(grid) <= DENSE_CELLS else "shift"
    # A few queries need no copies of the map.
    call = _shift if form == "shift" and q.shape[1] == k.shape[1] else _dense
    y = call(q, k, v, grid, ring=variant == "acc")
    return y.reshape(*y.shape[:2], *heads)


def neighbours(grid: tuple[int, int], extra: int) -> Bool[np.ndarray, "L L"]:
    """Returns who (row) looks at whom (column).

    Extra tokens see everything, and are seen by extra tokens alone.
    Raises: UserError if the grid is empty.
    """
    if min(grid) < 1:
        raise UserError(f"a grid of {grid} has no cells")
    y, x = np.divmod(np.arange(math.prod(grid)), grid[1])
    near = (abs(y[:, None] - y) <= 1) & (abs(x[:, None] - x) <= 1)
    return np.pad(near, ((extra, 0), (extra, 0))) | (np.arange(extra + len(y)) < extra)[:, None]


def _dense(q: Array, k: Array, v: Array, grid: tuple[int, int], ring: bool) -> Array:
    (length, heads), extra = q.shape[1:3], k.shape[1] - math.prod(grid)
    seen = neighbours(grid, extra)[:length]
    bias = np.where(seen, 0.0, -np.inf)  # K L
    if ring:
        # n keys of zeros weigh as much as one whose score is log n.
        outside = np.where(np.arange(length) < extra, 0, 9 - seen[:, extra:].sum(1))
        with np.errstate(divide="ignore"):
            bias = np.concatenate([bias, np.log(outside)[:, None]], axis=1)
        k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (k, v))
    bias = jnp.asarray(bias, jnp.float32)
    return attention(q, k, v, bias=jnp.broadcast_to(bias, (1, heads, *bias.shape)))


def _shift(q: Array, k: Array, v: Array, grid: tuple[int, int], ring: bool) -> Array:
    (h, w), extra = grid, k.shape[1] - math.prod(grid)
    first = attention(q[:, :extra], k, v)  # B E N d
    q, k, v = (x[:, extra:].reshape(len(x), h, w, *x.shape[2:]) for x in (q, k, v))
    k, v = (jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0))) for x in (k, v))
    keys, values = ([x[:, y : y + h, z : z + w] for y, z in SHIFTS] for x in (k, v))
    q = q * q.shape[-1] ** -0.5
    product = functools.partial(jnp.einsum, "byxnd,byxnd->byxn", preferred_element_type=jnp.float32)
    scores = jnp.stack([product(q, key) for key in keys], axis=-1)  # B h w N 9
    if not ring:
        inside = np.pad(np.ones(grid, bool), 1)
        inside = np.stack([inside[y : y + h, z : z + w] for y, z in SHIFTS], axis=-1)
        scores = scores + jnp.where(inside, 0.0, -jnp.inf)[:, :, None]
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    mixed = sum(weights[..., i, None] * value for i, value in enumerate(values))
    return jnp.concatenate([first, mixed.reshape(len(q), h * w, *q.shape[3:])], axis=1)
