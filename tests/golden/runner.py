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
# MS-VP's kinds of cases that name no model, and those that are pictures
MSVP = ("prompting", "schedules", "metrics", "prompt_panels")
PICTURES = ("gradcam", "prompt_panels")
# JSON files that are cases: the file that knows them
JSON_CASES = {"inat_json": "inat", "tokenizer_cases": "clip"}


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
    paths = [p for p in paths if "meta" in np.load(p).files]
    known = (folder / f"{stem}.json" for stem in JSON_CASES if fnmatch.fnmatch(stem, pattern))
    return sorted([*paths, *(p for p in known if p.is_file())])


def check(path: Path) -> tuple[bool, str]:
    """Runs a case. Returns whether it passed, and a line about it."""
    if path.suffix == ".json":
        module = importlib.import_module(f"tests.golden.{JSON_CASES[path.stem]}")
        arrays, meta, compare = {}, json.loads(path.read_text()), module.compare_json
    else:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        meta, compare = json.loads(str(arrays.pop("meta"))), None
    try:
        with jax.default_matmul_precision("highest"):
            return judge((compare or handler(meta))(meta, arrays, path.parent))
    except NotUnderstood as e:
        return False, f"not understood: {e}"
    except Exception as e:
        return False, f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"


def handler(meta: dict):
    """Returns the function (meta, arrays, folder) -> comparisons for a case's kind."""
    from tests.golden import clip, data, inat, metrics, model, mop, sa2vp, solver, vit_b4

    kind = meta.get("kind")
    if kind in MSVP or (kind and meta.get("model")):
        file = "msvp_pictures" if kind in PICTURES else "msvp"
        return importlib.import_module(f"tests.golden.{file}").compare
    if found := clip.find(meta) or mop.find(meta):
        return found
    if str(meta.get("method")).startswith("sa2vp"):
        return sa2vp.compare
    if meta.get("method") in ("P", "F", "P+F") or meta.get("kind") == "adapt":
        return vit_b4.compare
    if "optimizer" in meta:
        return solver.compare
    if "out_cosine_range" in str(meta.get("note")):
        return inat.compare_metrics
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
