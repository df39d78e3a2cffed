"""The images that each sub-prompt of a class is most responsible for (MoP-CLIP).

    class12_danaus_plexippus_k0.png     images with the highest gamma of sub-prompt 0
    class12_danaus_plexippus_usage.csv  id, arg max and gammas of every image; also as .json
    class12_danaus_plexippus_usage.png  share of images with the arg max, and mean gamma

gamma = softmax over the K sub-prompts of similarity / tau. An image may be in several grids. Only
images of the class are read.
"""

import logging
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from vpjax.core.errors import UserError, unknown
from vpjax.core.files import write_json
from vpjax.core.table import write_csv
from vpjax.data import Loader, preset
from vpjax.data.source import Source
from vpjax.data.subset import find_classes, select_labels
from vpjax.methods.mop import MoP
from vpjax.models.partition import merge
from vpjax.report.plots.style import INK, PALETTE, SIZE, figure_of, plain
from vpjax.report.plots.subject import Subject
from vpjax.runs.features import backbone_values, make_forward
from vpjax.train.sharding import prefetch, replicate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TILE, SHORT, PADDING = 224, 256, 2  # pixels

Picture = UInt8[np.ndarray, "H W 3"]

log = logging.getLogger(__name__)


def applies(subject: Subject) -> bool:
    """Return whether a run has sub-prompts and images."""
    return isinstance(subject.model.method, MoP) and bool(subject.split)


def subprompts(subject: Subject) -> list[Path]:
    """Draw the sub-prompts of a class into the run's folder "subprompts"; return the files.

    Raises:
        UserError: for a class or split that does not exist, a class without images there, or a
            temperature that is not above 0.
    """
    chosen, sources = subject.subprompt_options, subject.experiment.sources
    split = chosen.split or subject.split
    if split not in sources:
        raise unknown("split of the run", split, sources)
    label, facts = class_label(subject), subject.experiment.classes.metadata
    own = select_labels(sources[split], [label])
    name = str(facts[label].get("species") or facts[label].get("name") or label)
    files = [r.file or str(i) for i, r in enumerate(own.records.__getitems__(range(len(own))))]
    pixels = lambda i: own[i]["image"]  # noqa: E731
    tau = temperature(subject)
    gammas = assignments(subject, own, label, tau) if len(own) else np.zeros((0, 1))
    log.info("class     %d, %s: %d images of %s, tau %.3g", label, name, len(own), split, tau)
    folder = subject.folder / "subprompts"
    return draw_subprompts(folder, label, name, gammas, pixels, files, chosen.top_n)


def class_label(subject: Subject) -> int:
    """Return the label of the class to draw; of several with its name the first.

    Raises:
        UserError: for a class that does not exist, or that is given by name and by label.
    """
    chosen, source = subject.subprompt_options, subject.experiment.sources[subject.split]
    if chosen.name and chosen.label is not None:
        raise UserError("give --class_name or --class_idx, not both")
    if chosen.name:
        found = find_classes(source, [chosen.name])
        if len(found) > 1:
            log.warning(
                "warning   %d classes are called %s: %s; the first is drawn",
                len(found),
                chosen.name,
                found,
            )
        return found[0]
    label = int(subject.label) if chosen.label is None else chosen.label
    if not 0 <= label < source.num_classes:
        raise UserError(
            f"--class_idx is {label}; the run has {source.num_classes} classes, from 0 on"
        )
    return label


def temperature(subject: Subject) -> float:
    """Return the temperature of the options, or that of the checkpoint's step.

    Raises:
        UserError: if it is not above 0.
    """
    if (tau := subject.subprompt_options.tau) is None:
        done = int(subject.state.step) / subject.experiment.plan.steps
        return float(subject.model.method.tau(done))
    if tau <= 0:
        raise UserError(f"--tau is {tau}; it must be above 0")
    return tau


def assignments(subject: Subject, own: Source, label: int, tau: float) -> Float[np.ndarray, "N K"]:
    """Return gamma of each of the N images `own` of a class, for each of its K sub-prompts."""
    e, (graph, *numbers) = subject.experiment, subject.parts
    weights = backbone_values(e.frozen | subject.state.trainable)
    forward = make_forward(e)

    @jax.jit
    def assign(features, *numbers):
        labels = jax.numpy.full(len(features), label)
        return merge(graph, *numbers).method.assign(features, labels, tau)

    size = e.inputs.images.settings.eval_batch_size
    batches = Loader(own, size, preset(e.preset), e.image_size, train=False).batches()
    found = []
    for batch in prefetch(batches, e.mesh):
        gammas = assign(forward(weights, batch), *numbers)
        found.append(replicate({"gammas": gammas, "real": batch["mask"]}, e.mesh))
    found = jax.device_get(found)
    return np.concatenate([f["gammas"][f["real"]] for f in found])


def draw_subprompts(
    folder: Path,
    label: int,
    name: str,
    gammas: Float[np.ndarray, "N K"],
    images: Callable[[int], Picture],
    ids: Sequence[str],
    top_n: int = 16,
) -> list[Path]:
    """Write the files above to `folder`; return their paths, the grids first.

    Args:
        images: images(i) loads image i of the class, 0..N-1, of any size, uint8 with 1 or 3
            channels; called for images that are shown only.
        ids: the images' names.
        top_n: images for each sub-prompt.

    Raises:
        UserError: if the class has no images, or `top_n` is not positive.
    """
    if not len(gammas):
        raise UserError(f"class {label} ({name}) has no images in this split; choose another.")
    if top_n < 1:
        raise UserError(f"top_n is {top_n}; it must be at least 1.")
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"class{label}_{file_name(name)}"
    shown = top(gammas, top_n)
    tiles = {int(i): tile(images(int(i))) for i in np.unique(shown)}
    written = []
    for k, row in enumerate(shown):
        written.append(folder / f"{stem}_k{k}.png")
        Image.fromarray(grid([tiles[int(i)] for i in row])).save(written[-1])
    found = usage(gammas)
    rows = [
        {"image": image, "argmax": int(row.argmax()), "gamma": [float(g) for g in row]}
        for image, row in zip(ids, gammas, strict=True)
    ]
    files = {kind: folder / f"{stem}_usage.{kind}" for kind in ("json", "csv", "png")}
    facts = {"class": label, "name": name, **found, "top": shown.tolist(), "images": rows}
    write_json(files["json"], facts)
    columns = [
        {"image": r["image"], "argmax": r["argmax"]}
        | {f"gamma_{k}": gamma for k, gamma in enumerate(r["gamma"])}
        for r in rows
    ]
    write_csv(files["csv"], columns)
    histogram(found, f"{name}: {len(gammas)} images").savefig(files["png"])
    return written + list(files.values())


def file_name(name: str) -> str:
    """Return a class's name with underscores for letters that a file name should not have."""
    return re.sub(r"[^\w.-]+", "_", name.strip()) or "class"


def top(gammas: Float[np.ndarray, "N K"], n: int) -> Int[np.ndarray, "K n"]:
    """Return the indices of each sub-prompt's n images with the highest gamma, highest first."""
    return np.argsort(-gammas, axis=0, kind="stable")[:n].T


def usage(gammas: Float[np.ndarray, "N K"]) -> dict[str, Any]:
    """Return how evenly images are spread over the K sub-prompts.

    Returns:
        share: share of images with the arg max at each sub-prompt.
        mean_gamma: mean over images, of each sub-prompt.
        effective: exp of the entropy of `share`, from 1 (one sub-prompt has all) to K (even).
        undecided: mean entropy of an image's gammas divided by log K, from 0 (one sub-prompt has
            the image) to 1 (even).
    """
    gammas = np.asarray(gammas, np.float64)
    count = gammas.shape[1]
    share = np.bincount(gammas.argmax(1), minlength=count) / len(gammas)
    undecided = entropy(gammas).mean() / math.log(count) if count > 1 else 0.0
    return {
        "share": share.tolist(),
        "mean_gamma": gammas.mean(0).tolist(),
        "effective": float(np.exp(entropy(share))),
        "undecided": float(undecided),
    }


def entropy(p: Float[np.ndarray, "*n K"]) -> Float[np.ndarray, "*n"]:
    """Return -sum p log p over the last axis, in nats; 0 log 0 is 0."""
    return -(p * np.log(np.where(p > 0, p, 1))).sum(-1)


def tile(image: Picture) -> Picture:
    """Return the middle 224 x 224 of an image whose short side is resized to 256."""
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("RGB")
    scale = SHORT / min(picture.size)
    width, height = (max(SHORT, int(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, above = (round((side - TILE) / 2) for side in (width, height))
    return np.asarray(picture.crop((left, above, left + TILE, above + TILE)))


def grid(tiles: Sequence[Picture]) -> Picture:
    """Return tiles in rows on black; a single one is returned as it is.

    There are floor(sqrt(n)) columns from 4 tiles on, else n.
    """
    if len(tiles) == 1:
        return tiles[0]
    n = len(tiles)
    columns = math.isqrt(n) if n >= 4 else n
    step = TILE + PADDING
    out = np.zeros((math.ceil(n / columns) * step + PADDING, columns * step + PADDING, 3), np.uint8)
    for i, image in enumerate(tiles):
        row, column = divmod(i, columns)
        y, x = row * step + PADDING, column * step + PADDING
        out[y : y + TILE, x : x + TILE] = image
    return out


def histogram(found: dict[str, Any], title: str) -> "Figure":
    """Draw the result of `usage`."""
    count = len(found["share"])
    figure = figure_of(max(3.5, 1.2 + 0.22 * count), 2.8)
    axes = figure.subplots()
    plain(axes)
    places = np.arange(count)
    axes.bar(
        places, 100 * np.array(found["share"]), color=PALETTE[0], label="images with the arg max"
    )
    mean = 100 * np.array(found["mean_gamma"])
    axes.plot(places, mean, "o", color=PALETTE[1], markersize=3.5, label="mean gamma")
    axes.axhline(100 / count, color=INK, linewidth=0.8, linestyle=":", label="even")
    axes.set_xlabel("sub-prompt", fontsize=SIZE)
    axes.set_ylabel("%", fontsize=SIZE)
    if count <= 16:
        axes.set_xticks(places)
    axes.set_ylim(bottom=0)
    text = f"{found['effective']:.1f} of {count} effective, {found['undecided']:.0%} undecided"
    axes.set_title(f"{title}\n{text}", fontsize=SIZE, color=INK)
    figure.legend(loc="outside lower center", ncols=3, fontsize=SIZE - 2, frameon=False)
    return figure
