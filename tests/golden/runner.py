"""Finds the cases of a folder, hands each to what understands it, judges the numbers."""

import fnmatch
import functools
import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

# family of backbones: the file that knows its names
FAMILIES = {
    "vit": "vit",
    "mae": "ssl",
    "moco": "ssl",
    "swin": "swin",
    "convnext": "conv",
    "resnet": "conv",
}


class NotUnderstood(Exception):
    """A case asks for something that is not implemented, or not known here."""


class Comparison(NamedTuple):
    """One array of ours beside the recorded one; allowed: atol + rtol |recorded|."""

    name: str
    ours: np.ndarray
    recorded: np.ndarray
    atol: float
    rtol: float = 0.0


def cases(folder: Path, pattern: str = "*") -> list[Path]:
    """Returns the case files of a folder; files without `meta` are inputs of cases."""
    paths = sorted(p for p in folder.glob("*.npz") if fnmatch.fnmatch(p.stem, pattern))
    return [p for p in paths if "meta" in np.load(p).files]


def check(path: Path) -> tuple[bool, str]:
    """Runs a case. Returns whether it passed, and a line about it."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(str(arrays.pop("meta")))
    try:
        with jax.default_matmul_precision("highest"):
            return judge(handler(meta)(meta, arrays, path.parent))
    except NotUnderstood as e:
        return False, f"not understood: {e}"
    except Exception as e:
        return False, f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"


def handler(meta: dict):
    """Returns the function (meta, arrays, folder) -> comparisons for a case's kind."""
    from tests.golden import data, metrics, model, sa2vp, solver

    if str(meta.get("method")).startswith("sa2vp"):
        return sa2vp.compare
    if "optimizer" in meta:
        return solver.compare
    for start, compare in (("metrics", metrics.compare), ("data_", data.compare)):
        if str(meta.get("case")).startswith(start):
            return compare
    if (family := meta.get("family")) in FAMILIES:
        module = importlib.import_module(f"tests.golden.{FAMILIES[family]}")
        return functools.partial(model.compare, module)
    raise NotUnderstood(f"kind of case: {family or meta.get('case') or 'no family and no case'}")


def judge(comparisons: Iterable[Comparison]) -> tuple[bool, str]:
    """Returns whether all arrays agree, and the worst of them."""
    worst, text, count = -1.0, "", 0
    for c in comparisons:
        count += 1
        ours, recorded = np.asarray(c.ours, np.float64), np.asarray(c.recorded, np.float64)
        if ours.shape != recorded.shape:
            return False, f"{c.name}: shape {ours.shape}, recorded {recorded.shape}"
        error = np.abs(ours - recorded)
        allowed = c.atol + c.rtol * np.abs(recorded)
        # 0 / 0 where exact equality is asked for and found.
        share = np.where(error == 0, 0.0, error / np.maximum(allowed, 1e-300)).max(initial=0.0)
        if not np.isfinite(share):
            return False, f"{c.name}: not a number"
        if share > worst:
            worst, text = share, f"{c.name} off by {error.max(initial=0.0):.1e}"
    if not count:
        return False, "nothing was compared"
    return worst <= 1, f"{count:3d} arrays, worst {worst:.3g} of what is allowed ({text})"
