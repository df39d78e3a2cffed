"""Sides that do the same work take turns, so that what else a machine does hits them alike.

Ratios are given three ways: of medians, of the shortest steps, and turn by turn: the time of one
side over that of the first side in the same turn, of which the median and the middle half are kept.
The last is the one to believe on a machine that is shared.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import torch

from benchmarks import measure
from vpjax.core.errors import UserError

WARMUP = 2  # further calls before the first turn, where steps are short
TURN_SECONDS = 0.5  # a turn is about as long, and at least one step
MOST = 10  # steps of a turn


class Side(NamedTuple):
    """One side of a race; the first is ours."""

    who: str  # "ours (xla)", "eager", "compiled"
    call: Callable[[], Any]  # one step; returns when its work is done
    ours: bool = False
    held: dict[str, int | None] = {}  # what the compiler sets aside, where it says so


def race(sides: Sequence[Side], batch: int, turns: int) -> list[dict[str, Any]]:
    """Times all sides in turns; a row a side. One that cannot be compiled says so in its row."""
    rows: list[dict[str, Any]] = [{"who": side.who} for side in sides]
    for side, row in zip(sides, rows, strict=True):
        try:
            row |= warm_up(side)
        except Exception as error:  # compiling fails in many ways: no C++ compiler, no Triton ...
            if side.who != "compiled":
                raise
            row["failed"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    # Once more in turns: a side's memory lies elsewhere after the others have taken theirs.
    for side, row in zip(sides, rows, strict=True):
        if "failed" not in row:
            side.call()
    times: list[list[list[float]]] = [[] for _ in sides]  # side, turn, step
    for _ in range(turns):
        for side, row, mine in zip(sides, rows, times, strict=True):
            if "failed" not in row:
                mine.append(turn(side, row.pop("about", mine[-1][-1] if mine else 0.0)))
    for row, mine in zip(rows, times, strict=True):
        if mine:
            row |= measure.speed([t for part in mine for t in part], batch)
            row |= ratios(mine, times[0])
    return rows


def turn(side: Side, about: float) -> list[float]:
    """Return seconds of the steps of a turn. A first one is not timed, unless steps are long."""
    steps = min(MOST, max(1, round(TURN_SECONDS / max(about, 1e-6))))
    if steps > 1:
        side.call()
    return measure.seconds(side.call, steps)


def ratios(mine: list[list[float]], first: list[list[float]]) -> dict[str, Any]:
    """Return how many times as long this side's steps take as the first side's."""
    flat = [[t for part in side for t in part] for side in (mine, first)]
    pairs = [statistics.median(a) / statistics.median(b) for a, b in zip(mine, first, strict=True)]
    low, middle, high = (
        statistics.quantiles(pairs, n=4, method="inclusive") if len(pairs) > 1 else pairs * 3
    )
    return {
        "turn_ms": [1e3 * statistics.median(part) for part in mine],
        "ours_over_this": statistics.median(flat[0]) / statistics.median(flat[1]),
        "ours_over_this_shortest": min(flat[0]) / min(flat[1]),
        "ours_over_this_pairs": middle,
        "ours_over_this_spread": (low, high),
    }


def warm_up(side: Side) -> dict[str, Any]:
    """Makes the first calls; returns the most memory one of them held, and seconds of the last.

    On a GPU: all that the framework holds, ours as the compiler sets it aside. On a CPU: what the
    process grew by.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        about = settle(side)
        if side.ours:
            return side.held | {"about": about}
        return {"peak_bytes": torch.cuda.max_memory_allocated(), "about": about}
    if side.who == "compiled":
        side.call()  # compiles, in memory of its own
    before = measure.process_bytes(reset=True)
    about = settle(side)
    after = measure.process_bytes()
    grew = None if before is None or after is None else after - before
    return side.held | {"peak_bytes": grew, "about": about}


def settle(side: Side) -> float:
    """Makes calls that nobody times, and returns the seconds of the last."""
    side.call()
    about = measure.seconds(side.call, 1)[0]
    return about if about > TURN_SECONDS else measure.seconds(side.call, WARMUP)[-1]


def platform() -> str:
    """Return "gpu" or "cpu", where both frameworks compute.

    Raises: UserError if they differ.
    """
    ours, theirs = jax.default_backend(), "gpu" if torch.cuda.is_available() else "cpu"
    if ours != theirs:
        raise UserError(
            f"JAX runs on {ours}, PyTorch on {theirs}. Install both for the same device, or set "
            "JAX_PLATFORMS=cpu and CUDA_VISIBLE_DEVICES= for a CPU."
        )
    return ours
