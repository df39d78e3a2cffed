"""Arrays under the names of another library: what a format module reads, written.

A format's `translate` renames, reorders, splits and joins arrays. So it is applied to the place of
every number of a file instead of the numbers: that says where each of ours lies there. No table of
names is needed twice. What cannot be undone (sums, averages) is found by a second pass, over the
places counted from the end: there an array that was only moved is the mirror of itself.
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
    places, ours = _places(like), _moved(form, like, expected)
    flat = np.concatenate([np.asarray(array, np.float32).ravel() for array in like.values()])
    taken = np.zeros(flat.size, bool)
    for name, value in values.items():
        place = ours.get(name)
        if place is None or place.shape != value.shape:
            raise cannot(form, name)
        if taken[place].any() and not np.array_equal(flat[place], value):
            raise cannot(form, name)  # one array there for several here, which differ by now
        flat[place], taken[place] = value, True
    return {n: flat[p] if taken[p].any() else like[n] for n, p in places.items()}


def origins(
    form: ModuleType, like: Mapping[str, np.ndarray], expected: Mapping[str, Any]
) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    """Return what each array of a file becomes: our names, with the shapes they get.

    See `rewritten` for the arguments.
    """
    places = _places(like)
    names = list(places)
    ends = np.cumsum([array.size for array in places.values()])
    out = {name: [] for name in names}
    for ours, place in _moved(form, like, expected).items():
        if place.size:
            at = int(np.searchsorted(ends, place.flat[0], side="right"))
            out[names[at]].append((ours, place.shape))
    return out


def _moved(
    form: ModuleType, like: Mapping[str, np.ndarray], expected: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return the places of those of our arrays that are only moved, by our names."""
    places = _places(like)
    last = sum(array.size for array in places.values()) - 1
    found = form.translate(places, expected)
    mirrored = form.translate({n: last - p for n, p in places.items()}, expected)
    kind = next(iter(places.values())).dtype
    same = lambda a, b: a.dtype == kind == b.dtype and np.array_equal(last - a, b)  # noqa: E731
    return {n: p for n, p in found.items() if same(p, mirrored[n])}


def _places(like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the number of every place in a file's arrays, counted over all of them."""
    kind = np.dtype(np.int32 if sum(map(np.size, like.values())) < 2**31 else np.int64)
    out, start = {}, 0
    for name, array in like.items():
        end = start + np.size(array)
        out[name], start = np.arange(start, end, dtype=kind).reshape(np.shape(array)), end
    return out


def cannot(form: ModuleType, name: str) -> UserError:
    """Return the error for an array that has no place of its own in a file."""
    library = form.__name__.rpartition(".")[2]
    return UserError(
        f"{name} has no place of its own in a file with {library}'s names. Use --format stablehlo, "
        "or a target that ends in .safetensors, for vpjax's own names."
    )
