"""K-means: rows of a matrix into groups, by distance or by angle."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def kmeans(
    x: Float[Array, "n D"],
    count: int,
    *,
    cosine: bool = False,
    start: Float[Array, "K D"] | None = None,
    iterations: int = 20,
    tolerance: float = 1e-4,
) -> tuple[Float[Array, "K D"], Int[Array, " n"]]:
    """Return the centres of K groups and the group of each row; an empty one keeps its centre.

    Args:
        x: at least K rows; without `start` in random order, as the first K are the first centres.
        count: K.
        cosine: whether rows are compared by the cosine of their angle instead of their distance.
        start: the first centres.
        iterations: at most so many.
        tolerance: the centres have converged when their shifts together are below this.
    """
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12) if cosine else x

    def groups(centres):
        if cosine:
            centres = centres / jnp.maximum(jnp.linalg.norm(centres, axis=-1, keepdims=True), 1e-12)
        # The nearest has the largest x c - |c|^2 / 2; unit vectors the largest cosine.
        return (x @ centres.T - 0.5 * jnp.square(centres).sum(-1)).argmax(-1)

    def again(state):
        _, shift, i = state
        return (shift > tolerance) & (i < iterations)

    def move(state):
        centres, _, i = state
        members = jax.nn.one_hot(groups(centres), count)  # n K
        sizes = members.sum(0)[:, None]
        new = jnp.where(sizes > 0, members.T @ x / jnp.maximum(sizes, 1), centres)
        return new, jnp.linalg.norm(new - centres, axis=-1).sum(), i + 1

    begin = x[:count] if start is None else start
    centres, *_ = jax.lax.while_loop(again, move, (begin, jnp.inf, 0))
    return centres, groups(centres)
