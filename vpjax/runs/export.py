"""Export of a run to files that other programs read.

    google         TARGET.npz           the backbone, a plain ViT, under Google's names
    vpjax          TARGET.safetensors   the backbone under vpjax's own names
    timm           a folder             backbone and head: timm.create_model("local-dir:FOLDER")
    transformers   a folder             backbone and head: AutoModelForImageClassification
    stablehlo      TARGET.stablehlo     the whole run as a program, see `export_program`

Files of weights have no place for what a method adds beside the backbone: prompts or adapters. The
first two hold the backbone only; a run that trained nothing of it is refused, as the file would be
the one that the run began with. Every export computes some images again from what it wrote, and
leaves nothing behind if that differs from the run.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from vpjax.core import params
from vpjax.core.errors import UserError, unknown
from vpjax.core.files import atomic, open_to_readers
from vpjax.runs.export_check import compare
from vpjax.runs.export_program import export_program
from vpjax.runs.export_weights import LIBRARIES, export_weights
from vpjax.runs.run import Run, load_run
from vpjax.weights import google
from vpjax.weights.load import load

log = logging.getLogger(__name__)

SUFFIXES = {".npz": "google", ".safetensors": "vpjax", ".stablehlo": "stablehlo"}
FORMATS = ("google", "vpjax", *LIBRARIES, "stablehlo")


def export_run(folder: str | Path, target: Path, form: str = "", weights: str = "") -> Path:
    """Write a run, as it was trained, for other programs.

    Args:
        folder: of the run, or what else `load_run` takes.
        target: the file, or the folder for "timm" and "transformers".
        form: one of `FORMATS`; "": as the ending of `target` says.
        weights: where the frozen weights lie now; "": where they were.

    Returns:
        The target.

    Raises:
        UserError: if there is no run, for a format that has no place for what was learnt, or if
            what was written does not compute what the run computes.
    """
    form = format_of(target, form)
    if not target.absolute().parent.is_dir():
        raise UserError(f"there is no folder {target.absolute().parent}. Create it first.")
    run = load_run(folder, weights=weights, attention="xla")
    # Else float32 products are computed in a shorter format on some devices.
    exact = "highest" if run.config.dtype == "float32" else None
    with jax.default_matmul_precision(exact):
        if form == "stablehlo":
            differ = export_program(run, target)
            beside = f" and {target.name}.json beside it; computed again without vpjax"
        elif form in LIBRARIES:
            differ, beside = export_weights(run, target, form)
        else:
            differ, beside = export_backbone(run, target, form), ", the backbone alone; read back"
    log.info(
        "wrote %s%s: outputs differ from the run's by at most %.1e of the largest",
        *(target, beside, differ),
    )
    return target


def format_of(target: Path, form: str) -> str:
    """Return the format of an export.

    Raises: UserError if it is unknown, or neither it nor the ending of the target says one.
    """
    if form and form not in FORMATS:
        raise unknown("--format", form, FORMATS)
    usual = SUFFIXES.get(target.suffix, "")
    if not form and not usual:
        raise UserError(
            f"{target} does not say what to write: it ends in none of {', '.join(SUFFIXES)}. Give "
            f"--format: {', '.join(FORMATS)}."
        )
    if form in ("google", "vpjax") and usual != form:
        ending = next(s for s, name in SUFFIXES.items() if name == form)
        raise UserError(f"--format {form} writes a file that ends in {ending}, not {target.name}.")
    return form or usual


def export_backbone(run: Run, target: Path, form: str) -> float:
    """Write the backbone of a run; return the largest difference of its features.

    Args:
        run: the run.
        target: the file.
        form: "google" or "vpjax".

    Raises:
        UserError: if the run trained nothing of its backbone, Google has no such network, or the
            file gives other features.
    """
    beside = check_trained(run)
    arrays = {n: np.asarray(v, np.float32) for n, v in run.backbone_arrays().items()}
    if form == "google":
        check_google(run, arrays)
    with atomic(target) as new:
        if form == "google":
            with open(new, "wb") as file:
                google.save(file, arrays)
        else:
            safetensors.numpy.save_file(arrays, new)
            open_to_readers(new)
        differ = compare(run, *features_of_both(run, new))
    if beside:
        log.warning(
            "the file has not what %s trained beside the backbone (%s); with it the run computes "
            "other features than the file",
            *(run.config.method.name, ", ".join(beside)),
        )
    return differ


def features_of_both(run: Run, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return features of some images, B D, by the run's backbone and by that in a file."""
    body = run.model.backbone
    graph, state = nnx.split(body)
    values = params.flatten(state)
    found = load(str(path), values, body.grid).values
    found = {n: jnp.asarray(v, values[n].dtype) for n, v in found.items()}
    shape = (2, *body.image_size, body.stem.channels)
    images = jax.random.normal(jax.random.key(0), shape, body.dtype)
    apply = jax.jit(lambda arrays: nnx.merge(graph, params.fill(state, arrays))(images))
    return np.asarray(apply(values)), np.asarray(apply(found))


def check_trained(run: Run) -> tuple[str, ...]:
    """Check that a run trained something of its backbone.

    Returns: the parts of the method that it trained beside it, without the head.
    Raises: UserError if it trained nothing of the backbone.
    """
    names = run.trained_names()
    beside = dict.fromkeys(n.split("/")[1] for n in names if n.startswith("method/"))
    beside.pop("head", None)
    if any(n.startswith("backbone/") for n in names):
        return tuple(beside)
    weights = run.config.backbone.weights or "the random values it began with"
    raise UserError(
        f"{run.folder} trained nothing of its backbone: {run.config.method.name} trained "
        f"{', '.join([*beside, 'the head'])}, which a file of a backbone's weights cannot hold. "
        f"The backbone is still {weights}. Export the whole run with --format stablehlo, or use it "
        f"from Python: vpjax.load_run({str(run.folder)!r}).predict(images)."
    )


def check_google(run: Run, arrays: Mapping[str, np.ndarray]) -> None:
    """Check that Google's names exist for all arrays.

    Raises: UserError if not.
    """
    other = [n for n in arrays if not google.has_name(n)]
    if "cls_token" not in arrays or other:
        raise UserError(
            f"{run.config.backbone.name} cannot be written as Google's .npz, which holds plain "
            f"ViTs with a class token{f' and has no {other[0]}' if other else ''}. Give a target "
            "that ends in .safetensors."
        )
