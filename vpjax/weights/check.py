"""Compares the arrays of a file with those that a backbone needs: names, shapes, numbers.

Names come first, since they tell what kind of file it is. A message says everything that does not
fit, which options decide it, and what to do.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vpjax.core.errors import UserError

PATCHES = "patch_embed/kernel"  # p p C D
# Options, and the beginning of names of the parameters that they add.
OPTIONS = {
    "class_token": r"cls_token",
    "dist_token": r"dist_token",
    "num_registers": r"registers",
    "positions": r"pos_embed",
    "layer_scale": r"layers/\d+/scale[12]",
    "qk_norm": r"layers/\d+/attn/(query|key)_norm/",
    "relative_bias": r"layers/\d+/attn/relative_bias",
    "mlp": r"layers/\d+/mlp/(gate|norm)/",
    "qkv_bias": r"layers/\d+/attn/(query|key|value)/bias",
    "pre_norm": r"pre_norm/",
    "fc_norm": r"fc_norm/",
    "final_norm": r"norm/",
    "pool": r"attn_pool/",
    "projection_dim": r"projection/",
}


def check(
    values: Mapping[str, Any], expected: Mapping[str, Any], path: Path, kind: str = ""
) -> None:
    """Compare names and shapes of `values` with those expected.

    Raises: UserError that lists everything that does not fit; `path` and `kind` are for the
        message.
    """
    check_names(values, expected, path, kind)
    check_shapes(values, expected, path, kind)


def check_names(
    values: Mapping[str, Any],
    expected: Mapping[str, Any],
    path: Path,
    kind: str = "",
    found: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Compare the names of `values` with those expected; mis-shaped ones are listed too.

    `found` are the arrays by the names of the file, which the message then says too.
    Raises: UserError that lists everything that does not fit.
    """
    missing = sorted(expected.keys() - values.keys())
    extra = sorted(values.keys() - expected.keys())
    if missing or extra:
        extra = [n + _theirs(n, values[n], found or {}) for n in extra]
        wrong = [line for line in _wrong(values, expected) if not line.startswith("pos_embed:")]
        raise _misfit(values, expected, path, kind, missing, extra, wrong)


def check_shapes(
    values: Mapping[str, Any], expected: Mapping[str, Any], path: Path, kind: str = ""
) -> None:
    """Compare the shapes of `values` with those expected, all names of which exist.

    Raises: UserError that lists everything that does not fit.
    """
    if wrong := _wrong(values, expected):
        raise _misfit(values, expected, path, kind, [], [], wrong)


def check_finite(values: Mapping[str, np.ndarray], path: Path) -> None:
    """Check that all numbers are finite, and none of a quantised model.

    Raises: UserError that names arrays with NaN or infinite values, or with whole numbers.
    """
    whole = [f"{n}: {v.dtype}" for n, v in values.items() if v.size and v.dtype.kind in "iub"]
    if whole:
        raise UserError(
            f"weights {path} hold whole numbers in {len(whole)} arrays, as a quantised model does:"
            "\n    " + "\n    ".join(_shown(whole)) + "\n  Take the model's own numbers, or "
            "dequantise it with the library that wrote it."
        )
    wrong = {n: int(np.sum(~np.isfinite(v))) for n, v in values.items() if v.dtype.kind == "f"}
    listed = [f"{n}: {bad} of {values[n].size}" for n, bad in wrong.items() if bad]
    if listed:
        raise UserError(
            f"weights {path} hold numbers that are NaN or infinite, in {len(listed)} arrays:\n    "
            + "\n    ".join(_shown(listed))
            + "\n  The file was damaged or its training diverged; look for another copy of it."
        )


def _wrong(values: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    return [
        f"{n}: file {values[n].shape}, model {expected[n].shape}"
        for n in sorted(expected.keys() & values.keys())
        if values[n].shape != expected[n].shape
    ]


def _misfit(
    values: Mapping[str, Any],
    expected: Mapping[str, Any],
    path: Path,
    kind: str,
    missing: list[str],
    extra: list[str],
    wrong: list[str],
) -> UserError:
    text = [f"weights {path}{f', {kind},' if kind else ''} do not fit the model."]
    for title, lines in (("missing", missing), ("unexpected", extra), ("wrong shape", wrong)):
        if lines:
            text.append(f"{title} ({len(lines)}):\n    " + "\n    ".join(_shown(lines)))
    if options := options_of(missing + extra):
        text.append(
            f"What differs is decided by {', '.join(f'backbone.{o}' for o in options)}. Leave them "
            "out to take what the file says."
        )
    else:
        text.append("Check backbone.variant, patch_size, image_size and depth against the file.")
    if other_patches(values, expected):
        text.append("To carry a patch embedding to other patches, set backbone.resample='bicubic'.")
    theirs, ours = (n[PATCHES].shape if PATCHES in n else () for n in (values, expected))
    if len(theirs) == len(ours) == 4 and theirs[2] != ours[2]:
        text.append(
            f"The file takes images of {theirs[2]} channels: set backbone.channels={theirs[2]}"
            + (" (grey images are repeated)." if theirs[2] == 3 and ours[2] == 1 else ".")
        )
    return UserError("\n  ".join(text))


def _theirs(ours: str, value: np.ndarray, found: Mapping[str, np.ndarray]) -> str:
    """Return the file's name of an array, which is a view of the file's, if it is another."""
    names = [n for n, array in found.items() if np.may_share_memory(array, value)]
    return f" ({names[0]} in the file)" if names and names[0] != ours else ""


def options_of(names: Collection[str]) -> list[str]:
    """Return the options of backbones that decide whether there are parameters of these names."""
    return [o for o, p in OPTIONS.items() if any(re.match(p, n) for n in names)]


def _shown(lines: list[str]) -> list[str]:
    return lines[:8] + [f"... and {len(lines) - 8} more"] * (len(lines) > 8)


def other_patches(values: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Return whether the patch embeddings of file and model differ in their patch size only."""
    if PATCHES not in values or PATCHES not in expected:
        return False
    old, new = values[PATCHES].shape, expected[PATCHES].shape
    return len(old) == len(new) == 4 and old[2:] == new[2:] and old != new
