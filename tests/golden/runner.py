"""Find the recorded cases of a folder, run each, and judge it.

A case is an npz file with an entry `meta`, a JSON text that says how to run the case. What the
library computes is compared with the arrays of the file. A case fails

-   if an array differs by more than the case allows: atol max(1, largest recorded) + rtol
    |recorded|, so that a tolerance grows with what is compared; `tests/golden/comparison.py` has
    the rule and what is held to fixed tolerances;
-   if `meta` has a key that nothing read, or a value that the library does not reproduce
    ("not understood"); `tests/golden/record.py` says what a key can be;
-   if an array of results was recorded and not compared;
-   if its kind is not known.
"""

import fnmatch
import functools
import importlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tests.golden.comparison import judge
from tests.golden.record import NotUnderstood, Record, nearest

# family of backbones: the file that knows its names
FAMILIES = {
    "vit": "vit",
    "mae": "ssl",
    "moco": "ssl",
    "swin": "swin",
    "convnext": "conv",
    "resnet": "conv",
}
# Kinds of cases of MS-VP that name no model, and those that are pictures.
MSVP = ("prompting", "schedules", "metrics", "prompt_panels")
PICTURES = ("gradcam", "prompt_panels")
# Kinds of cases of prompt methods: the file that knows them, and what compares them.
PROMPTS = {
    "vision_method": ("prompts", "compare"),
    "pruning": ("pruning", "compare"),
    "clip_method": ("clip_methods", "compare"),
    "clip_training": ("clip_methods", "compare_training"),
    "aggregation": ("clip_methods", "compare_average"),
}
# Methods on CLIP with fixed texts: the file that knows their cases.
ADAPTERS = {"clip_adapter": "clip_adapters", "tip_adapter": "clip_adapters"}
# JSON files that are cases: the file that knows them.
JSON_CASES = {"inat_json": "inat", "tokenizer_cases": "clip"}
# Arrays that are inputs: a case may hold more of them than it needs.
INPUTS = ("in/", "param/", "init/")


def cases(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the case files of a folder; files without `meta` are inputs of cases."""
    paths = sorted(p for p in folder.glob("*.npz") if fnmatch.fnmatch(p.stem, pattern))
    paths = [p for p in paths if "meta" in np.load(p).files]
    known = (folder / f"{stem}.json" for stem in JSON_CASES if fnmatch.fnmatch(stem, pattern))
    return sorted([*paths, *(p for p in known if p.is_file())])


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the `meta` and the arrays of a case file; a JSON case has no arrays."""
    if path.suffix == ".json":
        return json.loads(path.read_text()), {}
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(str(arrays.pop("meta"))), arrays


def check(path: Path) -> tuple[bool, str]:
    """Run a case file. Return whether it passed, and a line about it."""
    meta, arrays = read(path)
    try:
        if path.suffix == ".json":
            module = importlib.import_module(f"tests.golden.{JSON_CASES[path.stem]}")
            return run(module.compare_json, meta, arrays, path.parent)
        return run(handler(meta, arrays), meta, arrays, path.parent)
    except NotUnderstood as e:
        return False, f"not understood: {e}"
    except Exception as e:
        return False, f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"


def run(
    compare: Callable, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], folder: Path
) -> tuple[bool, str]:
    """Compare a case and check that all of it was read.

    Args:
        compare: Takes `meta`, arrays and folder; yields comparisons.
        meta: The description of the case.
        arrays: Its arrays by their names.
        folder: Where files are that the case names.

    Raises:
        NotUnderstood: A key or a recorded result was not read.
    """
    meta, arrays = Record(meta), Record(arrays)
    with jax.default_matmul_precision("highest"):
        verdict = judge(compare(meta, arrays, folder))
    if unread := meta.unread():
        known = meta.asked() - set(unread)
        raise NotUnderstood("; ".join(f"key {k!r} of meta{nearest(k, known)}" for k in unread))
    if unread := [n for n in arrays.unread() if not n.startswith(INPUTS)]:
        raise NotUnderstood(f"recorded but not compared: {', '.join(unread)}")
    return verdict


def handler(meta: Mapping[str, Any], arrays: Collection[str] = ()) -> Callable:
    """Return what compares a case, a function of (meta, arrays, folder).

    Raises:
        NotUnderstood: No kind of case looks like this.
    """
    from tests.golden import clip, data, inat, metrics, model, mop, peft, sa2vp, solver, vit_b4

    kind = meta.get("kind")
    if kind in MSVP or (kind and meta.get("model")):
        file = "msvp_pictures" if kind in PICTURES else "msvp"
        return importlib.import_module(f"tests.golden.{file}").compare
    if meta.get("method") in ADAPTERS:
        return importlib.import_module(f"tests.golden.{ADAPTERS[meta['method']]}").compare
    if kind in PROMPTS:
        file, compare = PROMPTS[kind]
        return getattr(importlib.import_module(f"tests.golden.{file}"), compare)
    if found := clip.find(meta) or mop.find(meta):
        return found
    if str(meta.get("method")).startswith("sa2vp"):
        return sa2vp.compare
    if meta.get("method") in ("P", "F", "P+F") or kind == "adapt":
        return vit_b4.compare
    if peft.finds(meta):
        return peft.compare
    if "optimizer" in meta:
        return solver.compare
    if "in/class_shots" in arrays:
        return inat.compare_metrics
    for start, compare in (("metrics", metrics.compare), ("data_", data.compare)):
        if str(meta.get("case")).startswith(start):
            return compare
    if (family := meta.get("family")) in FAMILIES:
        module = importlib.import_module(f"tests.golden.{FAMILIES[family]}")
        return functools.partial(model.compare, module)
    words = {k: meta[k] for k in ("kind", "method", "family", "case") if k in meta}
    raise NotUnderstood(f"kind of case: {words or 'no kind, method, family or case'}")
