"""Arrays under the names of another library: what a format module reads, written.

A format's `translate` renames, reorders, splits and joins arrays. So it is applied to the place of
every number of a file instead of the numbers: that says where each of ours lies there. No table of
names is needed twice, and what cannot be undone (sums, averages) is noticed.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from vpjax.core.errors import UserError


def rewritten(
    form: ModuleType,
    like: Mapping[str, np.ndarray],
    expected: Mapping[str, Any],
    values: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Return arrays by the names of a file, with our numbers in them.

    Args:
        form: the module of the format, see `vpjax.weights.load`.
        like: the arrays of a file of this format; what has no place in `values` stays.
        expected: the backbone's names with arrays or shapes.
        values: our arrays by our names, those of the backbone and "head/kernel", "head/bias".

    Raises:
        UserError: if one of them has no place in such a file.
    """
    sizes = {name: np.size(array) for name, array in like.items()}
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()])[:-1].tolist(), strict=True))
    kind = np.int32 if sum(sizes.values()) < 2**31 else np.int64
    places = {
        name: np.arange(starts[name], starts[name] + sizes[name], dtype=kind).reshape(array.shape)
        for name, array in like.items()
    }
    ours = form.translate(places, expected)
    flat = np.concatenate([np.asarray(array, np.float32).ravel() for array in like.values()])
    taken = np.zeros(flat.size, bool)
    for name, value in values.items():
        place = ours.get(name)
        if place is None or place.dtype != kind or place.shape != value.shape:
            raise cannot(form, name)
        if taken[place].any() and not np.array_equal(flat[place], value):
            raise cannot(form, name)  # one array there for several here, which differ by now
        flat[place], taken[place] = value, True
    parts = np.split(flat, np.cumsum(list(sizes.values()))[:-1])
    shapes = [array.shape for array in like.values()]
    return {n: p.reshape(s) for n, p, s in zip(like, parts, shapes, strict=True)}


def cannot(form: ModuleType, name: str) -> UserError:
    """Return the error for an array that has no place of its own in a file."""
    library = form.__name__.rpartition(".")[2]
    return UserError(
        f"{name} has no place of its own in a file with {library}'s names. Use --format stablehlo, "
        "or a target that ends in .safetensors, for vpjax's own names."
    )
