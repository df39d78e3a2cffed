"""Export of a run to files that other programs read.

    google         TARGET.npz           backbone and head, a plain ViT, under Google's names
    vpjax          TARGET.safetensors   backbone and head under vpjax's own names
    timm           a folder             backbone and head: timm.create_model("local-dir:FOLDER")
    transformers   a folder             backbone and head: AutoModelForImageClassification
    stablehlo      TARGET.stablehlo     the whole run as a program, see `export_program`

What a method learnt beside the backbone is folded into its weights where that can be done (LoRA and
its kind, see `vpjax.runs.merge`). Files of weights have no place for the rest, prompts or adapters:
a run of such a method is refused, unless it trained the backbone too. The first two hold the head
where it is one linear layer, which `backbone.head=load` reads; a run that leaves the backbone as it
was is refused, as the file would be the one that the run began with. Every export computes some
images again from what it wrote, and leaves nothing behind if that differs from the run.
"""

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from vpjax.backbones.base import Backbone
from vpjax.core import params
from vpjax.core.errors import UserError, unknown
from vpjax.core.files import atomic, open_to_readers
from vpjax.runs.export_check import compare
from vpjax.runs.export_program import export_program
from vpjax.runs.export_weights import HEAD, LIBRARIES, export_weights
from vpjax.runs.merge import compared, folded, joined
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
            differ, beside = export_backbone(run, target, form), ", read back"
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
    body, beside, differ = backbone_of(run)
    arrays = {n: np.asarray(v, np.float32) for n, v in params.flatten(nnx.state(body)).items()}
    if form == "google":
        check_google(run, arrays)
    if not beside and (head := linear_head(run)):
        arrays |= {f"head/{n}": v for n, v in head.items()}
    with atomic(target) as new:
        if form == "google":
            with open(new, "wb") as file:
                google.save(file, arrays)
        else:
            safetensors.numpy.save_file(arrays, new)
            open_to_readers(new)
        differ = max(differ, compare(run, *features_of_both(body, new)))
    if beside:
        log.warning(
            "the file has not what %s trained beside the backbone (%s); with it the run computes "
            "other features than the file",
            *(run.config.method.name, ", ".join(beside)),
        )
    return differ


def backbone_of(run: Run) -> tuple[Backbone, tuple[str, ...], float]:
    """Return the backbone of a run with what its method learnt folded into it.

    Returns:
        The backbone; the parts of the method that it does not have, without the head; and the
        largest difference of its features to the run's.

    Raises:
        UserError: if the method cannot be folded and trained nothing of the backbone, if nothing of
            it has changed, or if the folded weights compute something else.
    """
    model, names = run.model, run.trained_names()
    beside = dict.fromkeys(n.split("/")[1] for n in names if n.startswith("method/"))
    beside.pop("head", None)
    learns = any(n.startswith("backbone/") for n in names)
    try:
        weights = folded(model)
    except UserError as e:
        if not learns:
            raise unchanged(run, beside, str(e)) from e
        if model.method.completes_backbone:
            raise UserError(f"{run.folder} is no backbone alone: {e}") from e
        return model.backbone, tuple(beside), 0.0
    before = params.flatten(nnx.state(model.backbone))
    if not learns and all(np.array_equal(before[n], v) for n, v in weights.items()):
        why = "What was learnt changes no weight of it. Export the whole run with --format timm"
        raise unchanged(run, beside, f"{why}, transformers or stablehlo, or use it from Python.")
    plain = joined(model, weights)
    return plain.backbone, (), compared(model, plain, "float32")


def features_of_both(body: Backbone, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return features of some images, B D, by a backbone and by that in a file."""
    graph, state = nnx.split(body)
    values = params.flatten(state)
    found = load(str(path), values, body.grid).values
    found = {n: jnp.asarray(v, values[n].dtype) for n, v in found.items()}
    shape = (2, *body.image_size, body.stem.channels)
    images = jax.random.normal(jax.random.key(0), shape, body.dtype)
    apply = jax.jit(lambda arrays: nnx.merge(graph, params.fill(state, arrays))(images))
    return np.asarray(apply(values)), np.asarray(apply(found))


def linear_head(run: Run) -> dict[str, np.ndarray]:
    """Return the kernel and bias of a run's head; {} if it is more than one linear layer."""
    arrays = run.parts.trainable | run.parts.frozen | run.parts.stats
    head = {n: v for n, v in arrays.items() if n.startswith("method/head/")}
    if any(not re.fullmatch(HEAD, n) for n in head):
        return {}
    return {n.rpartition("/")[2]: np.asarray(v, np.float32) for n, v in head.items()}


def unchanged(run: Run, beside: Collection[str], why: str) -> UserError:
    """Return the refusal of a backbone that is as it was; `beside` are the parts that trained."""
    weights = run.config.backbone.weights or "the random values it began with"
    return UserError(
        f"{run.folder} trained nothing of its backbone: {run.config.method.name} trained "
        f"{', '.join([*beside, 'the head'])}, which a file of a backbone's weights cannot hold. "
        f"The backbone is still {weights}. {why}"
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
