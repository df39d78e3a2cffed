"""Why a loss is not a number: weights or features that are none, or a run that has diverged."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vpjax.core.errors import Diverged, UserError
from vpjax.runs.experiment import Experiment


@contextlib.contextmanager
def blamed(experiment: Experiment) -> Iterator[None]:
    """Name what is not finite, where a run seems to have diverged but was given such numbers.

    Raises:
        UserError: naming the frozen weights or the features.
        Diverged: if all of them are finite.
    """
    try:
        yield
    except Diverged as error:
        if text := not_finite(experiment.frozen):
            where = f" of {experiment.loaded.path}" if experiment.loaded else ""
            raise UserError(
                f"frozen weights{where} are not finite: {text}. Nothing can be learnt with them: "
                "convert or fetch them again."
            ) from error
        for split, loader in experiment.inputs.loaders.items() if experiment.inputs.cached else ():
            rows = loader.rows.features
            if len(wrong := np.flatnonzero(~np.isfinite(rows).all(-1))):
                raise UserError(
                    f"features of {len(wrong)} of the {len(rows)} images of {split} are not "
                    f"finite, the first is that of example {wrong[0]}. Set --config.dtype=float32 "
                    "if it is another; else set --config.features=off."
                ) from error
        raise


def not_finite(arrays: Mapping[str, Any]) -> str:
    """Return which arrays have infinite numbers or NaN, and how many; "" if none has."""
    floats = {n: v for n, v in arrays.items() if jnp.issubdtype(v.dtype, jnp.floating)}
    counts = {n: int(jnp.sum(~jnp.isfinite(v))) for n, v in floats.items()}
    found = [f"{n} ({c} of {arrays[n].size} numbers)" for n, c in counts.items() if c]
    more = f" and {len(found) - 3} more" * (len(found) > 3)
    return ", ".join(found[:3]) + more
