"""Names of parameters.

Every parameter has one name, its path of attributes joined by "/":

    backbone/layers/11/attn/query/kernel        method/prompts/3        method/head/kernel

The library keeps a model's arrays in flat dictionaries {name: array}. A regular expression over
these names says what trains; the same names drive weight decay, sharding, loading, checkpoints and
tables.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from flax import nnx

from vpjax.core.errors import UserError


def flatten(state: nnx.State) -> dict[str, Any]:
    """Return the arrays of an NNX state as a flat dictionary {name: array}."""
    return {"/".join(map(str, path)): v.get_value() for path, v in nnx.to_flat_state(state)}


def fill(state: nnx.State, values: Mapping[str, Any]) -> nnx.State:
    """Return an NNX state with its arrays replaced.

    Args:
        state: gives names and structure.
        values: an array for every name of `state`, and no others.

    Raises:
        KeyError: if the names differ.
    """
    flat = nnx.to_flat_state(state)
    named = {"/".join(map(str, path)): (path, v) for path, v in flat}
    if named.keys() != values.keys():
        raise KeyError(f"names differ: {sorted(named.keys() ^ values.keys())}")
    return nnx.from_flat_state((path, v.replace(values[name])) for name, (path, v) in named.items())


def matching(pattern: str, names: Iterable[str], what: str = "pattern") -> set[str]:
    """Return the names that a regular expression matches in full.

    Args:
        pattern: the regular expression.
        names: of parameters.
        what: where the pattern comes from, for messages, such as "optim.no_decay".

    Raises:
        UserError: if the pattern is not a regular expression, or matches nothing.
    """
    names = list(names)
    try:
        compiled = re.compile(pattern)
    except re.error as e:
        raise UserError(f"{what} {pattern!r} is not a regular expression: {e}") from e
    found = {n for n in names if compiled.fullmatch(n)}
    if not found:
        shown = "\n  ".join(names[:12] + ["..."] * (len(names) > 12))
        raise UserError(
            f"{what} {pattern!r} matches no parameter in full. Names look like\n  {shown}"
        )
    return found
