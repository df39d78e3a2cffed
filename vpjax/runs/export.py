"""Export of a run's backbone to a weights file that other tools read.

Only the backbone is written: its parameters and the running averages of its norms. What a method
trains beside it, prompts or adapters, has no place in such a file; a run that trained nothing else
is refused, as the file would be the one that the run began with.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from vpjax.core.errors import UserError, unknown
from vpjax.core.files import atomic
from vpjax.runs.run import Run, load_run
from vpjax.weights import google

log = logging.getLogger(__name__)

SUFFIXES = (".npz", ".safetensors")


def export_run(folder: Path, target: Path) -> Path:
    """Write the backbone of a run, as it was trained, to a weights file.

    Args:
        folder: of the run.
        target: the file. ".npz": a ViT under the names of Google's checkpoints, for
            `backbone.weights` and other programs that read those; ".safetensors": any backbone,
            under vpjax's own names.

    Returns:
        The file.

    Raises:
        UserError: if there is no run, for another ending, for a backbone that has no such form, or
            if the run trained nothing of its backbone.
    """
    if target.suffix not in SUFFIXES:
        raise unknown("kind of file", target.suffix, SUFFIXES)
    if not target.absolute().parent.is_dir():
        raise UserError(f"there is no folder {target.absolute().parent}. Create it first.")
    run = load_run(folder)
    beside = check_trained(run)
    arrays = {n: np.asarray(v, np.float32) for n, v in run.backbone_arrays().items()}
    if target.suffix == ".npz":
        check_google(run, arrays)
    with atomic(target) as new:
        if target.suffix == ".npz":
            with open(new, "wb") as file:
                google.save(file, arrays)
        else:
            safetensors.numpy.save_file(arrays, new)
    log.info(
        "wrote the backbone (%s, %d arrays) to %s", run.config.backbone.name, len(arrays), target
    )
    if beside:
        log.warning(
            "the file has not what %s trained beside the backbone (%s); with it the run computes "
            "other features than the file",
            *(run.config.method.name, ", ".join(beside)),
        )
    return target


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
        f"The backbone is still {weights}. Use the whole model: "
        f"vpjax.load_run({str(run.folder)!r}).predict(images), or its .model."
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
