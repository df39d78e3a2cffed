"""Export of a run's backbone to a weights file that other tools read."""

import logging
from pathlib import Path

import numpy as np
import safetensors.numpy

from vpjax.core.errors import UserError, unknown
from vpjax.core.files import atomic
from vpjax.runs.run import load_run
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
        UserError: if there is no run, for another ending, or for a backbone that has no such form.
    """
    if target.suffix not in SUFFIXES:
        raise unknown("kind of file", target.suffix, SUFFIXES)
    if not target.absolute().parent.is_dir():
        raise UserError(f"there is no folder {target.absolute().parent}. Create it first.")
    run = load_run(folder)
    arrays = {n: np.asarray(v, np.float32) for n, v in run.backbone_arrays().items()}
    if target.suffix == ".npz" and "cls_token" not in arrays:
        raise UserError(
            f"{run.config.backbone.name} cannot be written as Google's .npz, which holds ViTs "
            "with a class token. Give a target that ends in .safetensors."
        )
    with atomic(target) as new:
        if target.suffix == ".npz":
            with open(new, "wb") as file:
                google.save(file, arrays)
        else:
            safetensors.numpy.save_file(arrays, new)
    log.info("wrote the backbone to %s (%d arrays)", target, len(arrays))
    return target
