"""Arrays of ours beside recorded ones, what a case allows them to differ by, and the verdict.

The recordings are float32, whose rounding errors grow with the largest number of an array and are
shared by the numbers near zero. An absolute tolerance is meant for arrays whose largest number is
about 1; where it is larger, `scaled` allows as many times more:

    allowed = atol max(1, largest recorded) + rtol |recorded|

That holds for outputs, losses, features and parameters. Gradients are compared by a share of the
largest number of each tensor (`gradient`), so that small tensors stay strict. Counts, labels,
indices and whole pixel levels are compared with fixed tolerances, never scaled.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tests.golden.record import NotUnderstood

NUMBER = r"(\d+(?:\.\d+)?(?:e-?\d+)?)"
GRADIENT = re.compile(rf"per tensor: max abs error <= {NUMBER} \* max abs reference \+ {NUMBER}\b")
OUTPUTS = re.compile(rf"outputs rtol {NUMBER} / atol {NUMBER}\b")
SLOPES = re.compile(rf"gradients rtol {NUMBER} / atol {NUMBER} relative to the largest entry")


class Comparison(NamedTuple):
    """One array of ours beside the recorded one; allowed: atol + rtol |recorded|."""

    name: str
    ours: Any
    recorded: Any
    atol: float
    rtol: float = 0.0


def scaled(name: str, ours: Any, recorded: Any, atol: float, rtol: float = 0.0) -> Comparison:
    """Return a comparison whose absolute tolerance grows with the largest recorded number."""
    return Comparison(name, ours, recorded, atol * max(1.0, largest(recorded)), rtol)


def summed(name: str, ours: Any, recorded: Any, terms: Iterable[Any], rtol: float) -> Comparison:
    """Return a comparison of a sum, allowed a share of its largest term: terms may cancel."""
    return Comparison(name, ours, recorded, rtol * max(map(largest, terms)))


def gradient(
    name: str, ours: Any, recorded: Any, share: float, atol: float = 0.0, of: Any = None
) -> Comparison:
    """Return a comparison with a share of the largest number of `of`, or of what was recorded."""
    return Comparison(name, ours, recorded, share * largest(recorded if of is None else of) + atol)


def largest(values: Any) -> float:
    """Return the largest absolute value of an array, 0 of an empty one."""
    return float(np.abs(np.asarray(values, np.float64)).max(initial=0.0))


def numbers(pattern: re.Pattern, text: str, what: str = "tolerance") -> tuple[float, ...]:
    """Return the numbers that a sentence states.

    Raises:
        NotUnderstood: The sentence has another form.
    """
    match = pattern.search(text) if isinstance(text, str) else None
    if not match:
        raise NotUnderstood(f"{what} {text!r}; expected {pattern.pattern!r}")
    return tuple(float(g) for g in match.groups())


def limits(stated: Mapping[str, Any]) -> dict[str, float]:
    """Return `atol` and `rtol` as a case states them, 0 where it does not."""
    return {"atol": stated.get("atol", 0.0), "rtol": stated.get("rtol", 0.0)}


def outputs(meta: Mapping[str, Any]) -> dict[str, float]:
    """Return `atol` and `rtol` of outputs: numbers named so, or stated in a sentence."""
    stated = meta["tolerance"]
    if isinstance(stated, str):
        rtol, atol = numbers(OUTPUTS, stated)
        return {"atol": atol, "rtol": rtol}
    return {"atol": stated["out_atol"], "rtol": stated["out_rtol"]}


def judge(comparisons: Iterable[Comparison]) -> tuple[bool, str]:
    """Return whether all arrays agree, and a line about the worst of them.

    Each array is looked at when it arrives, as a later training step may reuse its memory, and all
    are looked at, so that a case is read to its end.
    """
    worst, text, count, bad = -1.0, "", 0, ""
    for c in comparisons:
        count += 1
        ours, recorded = np.asarray(c.ours, np.float64), np.asarray(c.recorded, np.float64)
        if ours.shape != recorded.shape:
            bad = bad or f"{c.name}: shape {ours.shape}, recorded {recorded.shape}"
            continue
        error = np.abs(ours - recorded)
        allowed = c.atol + c.rtol * np.abs(recorded)
        # 0 / 0 where exact equality is asked for and found.
        share = np.where(error == 0, 0.0, error / np.maximum(allowed, 1e-300)).max(initial=0.0)
        if not np.isfinite(share):
            bad = bad or f"{c.name}: not a number"
        elif share > worst:
            worst, text = share, f"{c.name} off by {error.max(initial=0.0):.1e}"
    if not count:
        return False, "nothing was compared"
    line = f"{count:3d} arrays, worst {worst:.3g} of what is allowed ({text})"
    return bool(worst <= 1 and not bad), bad or line
