"""Loads public checkpoints into a backbone, strictly.

    file -> arrays by our names -> resized -> every name and shape checked -> values

A format is a module with two functions, chosen by the names in the file:

    recognises(names)               whether the names are of this format
    translate(arrays, expected)     arrays by our names; "head/..." for the file's classifier and
                                    "unused/..." for what is left out on purpose

`expected` holds the backbone's names with shapes (a fused qkv is split by them). Everything that
does not fit is reported in one error: missing, unexpected and mis-shaped names.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vpjax.core.errors import UserError, unknown
from vpjax.weights import clip, convnext, google, resnet, swin, timm
from vpjax.weights.download import fetch, sha256
from vpjax.weights.formats import read
from vpjax.weights.hub import weights_in
from vpjax.weights.resample import RULES, resize_grid, resize_patches

HEAD_POLICIES = ("new", "load")
FORMATS = (google, timm, swin, convnext, resnet, clip)
PATCHES = "patch_embed/kernel"  # p p C D
OPTIONAL = ("head/", "pre_logits/", "unused/")  # taken if the model has them, else left out


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Values for a backbone, and what a run records about their source.

    Attributes:
        values: arrays by the backbone's names.
        head: "kernel" (D C) and "bias" (C) of the file's classifier, with `head="load"`; else {}.
        path: the file.
        sha256: the hexadecimal digest of the file.
        dropped: names in the file that were left out on purpose.
        resized: such as "positions 14x14 -> 8x8, patches 16x16 -> 4x4", or "".
    """

    values: dict[str, np.ndarray]
    head: dict[str, np.ndarray]
    path: Path
    sha256: str
    dropped: tuple[str, ...]
    resized: str


def load(
    where: str,
    expected: Mapping[str, Any],
    grid: tuple[int, int],
    head: str = "new",
    resample: str = "align_corners",
) -> Loaded:
    """Reads weights for a backbone.

    Args:
        where: a path, an address, a name in the catalogue, or a folder or name of the Hugging Face
            hub.
        expected: the backbone's names with arrays or shapes.
        grid: the backbone's token grid (h, w); positions of another grid are resized to it.
        head: "new" leaves out the file's classifier, "load" returns it too.
        resample: a rule of `vpjax.weights.resample`. All but "align_corners" also resize the patch
            embedding where the patch size differs.

    Raises:
        UserError: if the file is missing, damaged, or does not fit.
    """
    if head not in HEAD_POLICIES:
        raise unknown("head policy", head, HEAD_POLICIES)
    if resample not in RULES:
        raise unknown("backbone.resample", resample, RULES)
    path = fetch(weights_in(where))
    arrays = translate(read(path), expected)
    heads = {n.removeprefix("head/"): v for n, v in arrays.items() if n.startswith("head/")}
    if head == "load" and not {"kernel", "bias"} <= heads.keys():
        raise UserError(f"{path}: head='load', but the file has no head. Use head='new'.")
    optional = [n for n in arrays if n.startswith(OPTIONAL) and n not in expected]
    values = {n: v for n, v in arrays.items() if n not in optional}

    resized = []
    if "pos_embed" in values and "pos_embed" in expected:
        values["pos_embed"], change = fit_positions(values["pos_embed"], grid, path, resample)
        resized += [f"positions {change}"] if change else []
    if other_patches(values, expected) and resample != "align_corners":
        old, new = values[PATCHES].shape[:2], expected[PATCHES].shape[:2]
        values[PATCHES] = resize_patches(values[PATCHES], new, resample)
        resized.append(f"patches {old[0]}x{old[1]} -> {new[0]}x{new[1]}")
    check(values, expected, path)
    return Loaded(
        values={n: values[n] for n in expected},
        head=heads if head == "load" else {},
        path=path,
        sha256=sha256(path),
        dropped=tuple(n for n in optional if head == "new" or not n.startswith("head/")),
        resized=", ".join(resized),
    )


def translate(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return a file's arrays by our names; arrays of an unknown format keep their names."""
    for form in FORMATS:
        if form.recognises(arrays.keys()):
            return form.translate(arrays, expected)
    return dict(arrays)


def check(values: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> None:
    """Compare names and shapes of `values` with those expected.

    Raises: UserError that lists everything that does not fit; `path` is for the message.
    """
    missing = sorted(expected.keys() - values.keys())
    extra = sorted(values.keys() - expected.keys())
    wrong = [
        f"{n}: file {values[n].shape}, model {expected[n].shape}"
        for n in sorted(expected.keys() & values.keys())
        if values[n].shape != expected[n].shape
    ]
    if not missing and not extra and not wrong:
        return
    text = [f"weights {path} do not fit the model."]
    for title, lines in (("missing", missing), ("unexpected", extra), ("wrong shape", wrong)):
        if lines:
            shown = lines[:8] + [f"... and {len(lines) - 8} more"] * (len(lines) > 8)
            text.append(f"{title} ({len(lines)}):\n    " + "\n    ".join(shown))
    text.append("Check backbone.variant, patch_size, image_size and depth against the file.")
    if other_patches(values, expected):
        text.append("To carry a patch embedding to other patches, set backbone.resample='bicubic'.")
    raise UserError("\n  ".join(text))


def other_patches(values: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Return whether the patch embeddings of file and model differ in their patch size only."""
    if PATCHES not in values or PATCHES not in expected:
        return False
    old, new = values[PATCHES].shape, expected[PATCHES].shape
    return len(old) == len(new) == 4 and old[2:] == new[2:] and old != new


def fit_positions(
    positions: np.ndarray, grid: tuple[int, int], path: Path, resample: str = "align_corners"
) -> tuple[np.ndarray, str]:
    """Resizes position embeddings to another token grid.

    Args:
        positions: (1 + T) D, the class token's first, the rest a square grid.
        grid: rows and columns of the new grid.
        path: the file, for messages.
        resample: a rule of `vpjax.weights.resample`.

    Returns:
        Positions, (1 + h w) D, and the change, such as "14x14 -> 8x8", or "".

    Raises:
        UserError: if T is not the square of a whole number.
    """
    count = len(positions) - 1
    if count == grid[0] * grid[1] and (grid[0] == grid[1] or math.isqrt(count) ** 2 != count):
        return positions, ""
    edge = math.isqrt(count)
    if edge * edge != count:
        raise UserError(
            f"weights {path}: {count} position embeddings are no square grid, and the model's grid "
            f"is {grid[0]}x{grid[1]}. Set backbone.image_size to the size the file was made for."
        )
    cells = positions[1:].reshape(edge, edge, -1)
    cells = resize_grid(cells, grid, resample).reshape(grid[0] * grid[1], -1)
    return np.concatenate([positions[:1], cells]), f"{edge}x{edge} -> {grid[0]}x{grid[1]}"
