"""Loads public checkpoints into a backbone, strictly.

    file -> the backbone in it -> arrays by our names -> resized -> names, shapes, numbers checked

A format is a module with two functions and a constant, chosen by the names in the file:

    ANCHOR                          a regular expression of a name that every such file has
    recognises(names)               whether the names are of this format
    translate(arrays, expected)     arrays by our names; "head/..." for the file's classifier and
                                    "unused/..." for what is left out on purpose

What stands in front of the names is stripped first, see `vpjax.weights.anchor`. `expected` holds
the backbone's names with shapes (a fused qkv is split by them). Everything that does not fit is
reported in one error: missing, unexpected and mis-shaped names. Names are judged first, since they
tell what kind of file it is; then positions, then shapes.
"""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vpjax.core.errors import UserError, unknown
from vpjax.weights import (
    bit,
    clip,
    convnext,
    google,
    hybrid,
    resnet,
    swin,
    timm,
    torchvision,
    transformers,
)
from vpjax.weights.anchor import Chosen, choose, split
from vpjax.weights.check import PATCHES, check_finite, check_names, check_shapes, other_patches
from vpjax.weights.description import WeightsFile
from vpjax.weights.download import digest_of, fetch
from vpjax.weights.formats import files_of, read, shapes
from vpjax.weights.hub import configuration, weights_in
from vpjax.weights.positions import fit_positions
from vpjax.weights.relative import fit_tables
from vpjax.weights.resample import RULES, resize_patches

HEAD_POLICIES = ("new", "load")
FORMATS = (hybrid, google, timm, transformers, torchvision, swin, convnext, resnet, bit, clip)
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
        chosen: such as "took 'state_dict_ema', not 'state_dict'", or "".
        kind: what the file is, such as "a transformers Dinov2Model".
    """

    values: dict[str, np.ndarray]
    head: dict[str, np.ndarray]
    path: Path
    sha256: str
    dropped: tuple[str, ...]
    resized: str
    chosen: str = ""
    kind: str = ""


def load(
    where: str,
    expected: Mapping[str, Any],
    grid: tuple[int, int],
    head: str = "new",
    resample: str = "align_corners",
    kind: str = "",
    source_grid: tuple[int, int] | None = None,
) -> Loaded:
    """Reads weights for a backbone.

    Args:
        where: a path, an address, a name in the catalogue, or a folder or name of the Hugging Face
            hub; "#" and a prefix behind it choose a part of the file, as in FILE#state_dict_ema.
        expected: the backbone's names with arrays or shapes.
        grid: the backbone's token grid (h, w); positions of another grid are resized to it.
        head: "new" leaves out the file's classifier, "load" returns it too.
        resample: a rule of `vpjax.weights.resample`. All but "align_corners" also resize the patch
            embedding where the patch size differs.
        kind: what the file is, for messages, such as "a transformers Dinov2Model".
        source_grid: the grid (h, w) of the file's positions; None: a square.

    Raises:
        UserError: if the file is missing, damaged, or does not fit.
    """
    if head not in HEAD_POLICIES:
        raise unknown("head policy", head, HEAD_POLICIES)
    if resample not in RULES:
        raise unknown("backbone.resample", resample, RULES)
    path = fetch(weights_in(where))
    found, chosen = read_backbone(path, split(where)[1])
    form = form_of(found)
    kind = kind or kind_of(form)
    arrays = translate(found, expected, path)
    arrays |= {f"unused/{n}": np.zeros(0) for n in chosen.left_out}
    heads = {n.removeprefix("head/"): v for n, v in arrays.items() if n.startswith("head/")}
    if head == "load" and (why := unsuited_head(form, found, expected)):
        raise UserError(f"{path}: head='load' does not suit the file's classifier: {why}.")
    if head == "load" and not {"kernel", "bias"} <= heads.keys():
        raise UserError(f"{path}: head='load', but the file has no head. Use head='new'.")
    optional = [n for n in arrays if n.startswith(OPTIONAL) and n not in expected]
    values = {n: v for n, v in arrays.items() if n not in optional}

    check_names(values, expected, path, kind, found)
    resized = []
    if "pos_embed" in expected:
        shape = expected["pos_embed"].shape
        values["pos_embed"], change = fit_positions(
            values["pos_embed"], grid, path, resample, shape[0] - grid[0] * grid[1], source_grid
        )
        resized += [f"positions {change}"] if change else []
    values, change = fit_tables(values, grid, path, resample, source_grid)
    if change and resized and resample != "align_corners":
        raise UserError(
            f"weights {path} have positions of cells and tables of relative ones, which their "
            "library resizes by two rules, and vpjax by one. Set backbone.image_size to the size "
            "the file was made for, or backbone.resample=align_corners."
        )
    resized += [f"relative positions {change}"] if change else []
    if other_patches(values, expected) and resample != "align_corners":
        old, new = values[PATCHES].shape[:2], expected[PATCHES].shape[:2]
        values[PATCHES] = resize_patches(values[PATCHES], new, resample)
        resized.append(f"patches {old[0]}x{old[1]} -> {new[0]}x{new[1]}")
    check_shapes(values, expected, path, kind)
    check_finite(values | (heads if head == "load" else {}), path)
    return Loaded(
        values={n: values[n] for n in expected},
        head=heads if head == "load" else {},
        path=path,
        sha256=digest_of(files_of(path)),
        dropped=tuple(n for n in optional if head == "new" or not n.startswith("head/")),
        resized=", ".join(resized),
        chosen=str(chosen),
        kind=kind,
    )


def read_backbone(path: Path, part: str = "") -> tuple[dict[str, np.ndarray], Chosen]:
    """Return the arrays of the backbone in a file, without what stands in front of their names.

    Args:
        path: the file.
        part: the prefix to take; "": see `vpjax.weights.anchor`.

    Raises:
        UserError: if the file cannot be read, or nothing decides between several backbones.
    """
    chosen = None

    def pick(names: Collection[str]) -> dict[str, str]:
        nonlocal chosen
        chosen = choose(names, FORMATS, part, path)
        return chosen.names

    arrays = read(path, pick)
    return arrays, chosen


def opened(where: str, path: Path) -> WeightsFile:
    """Return what a file of weights is, without interpreting its arrays.

    Args:
        where: as the user gave it; "#" and a prefix behind it choose a part of the file.
        path: the file.

    Raises:
        UserError: if the file or a configuration beside it cannot be read, or nothing decides
            between several backbones.
    """
    found = shapes(path)
    check_not_a_run(found, where)
    chosen = choose(found, FORMATS, split(where)[1], path)
    taken = {ours: found[name] for name, ours in chosen.names.items()}
    return WeightsFile(where, path, taken, chosen.prefix, *configuration(path, taken))


def check_not_a_run(names: Collection[str], where: str) -> None:
    """Check that a file is not what a run learnt, unless a part of it is asked for.

    Raises: UserError if it is.
    """
    if split(where)[1] or not any(n.startswith("method/") for n in names):
        return
    inside = any(n.startswith("backbone/") for n in names)
    raise UserError(
        f"weights {where} are what a run of vpjax has learnt, its method and head, not those of a "
        f"backbone. Use the run: vpjax.load_run({where!r})."
        + f" What it trained of the backbone is {where}#backbone."
        * inside
    )


def form_of(names: Collection[str]) -> Any | None:
    """Return the format module of names, in which nothing is in front; None: not known."""
    return next((form for form in FORMATS if form.recognises(names)), None)


def kind_of(form: Any | None) -> str:
    """Return what to call a file of this format, with its article."""
    if form is None:
        return "a file of unknown names"
    return f"a file with {form.__name__.rpartition('.')[2]}'s names"


def translate(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any], path: Path | str = "the file"
) -> dict[str, np.ndarray]:
    """Return a file's arrays by our names; arrays of an unknown format keep their names.

    Raises: UserError if the names are of a format and the shapes are not.
    """
    form = form_of(arrays.keys())
    if form is None:
        return dict(arrays)
    try:
        return form.translate(arrays, expected)
    except (ValueError, IndexError, KeyError, TypeError) as e:
        raise UserError(
            f"weights {path} are {kind_of(form)}, but arrays in it have other shapes than such "
            f"files have ({type(e).__name__}: {e}). Another architecture may use the same names."
        ) from e


def unsuited_head(form: Any, names: Collection[str], expected: Mapping[str, Any]) -> str:
    """Return why a file's classifier reads other features than the model's; "" if it does not."""
    judge = getattr(form, "no_head", None)
    return judge(names, expected) if judge else ""
