"""Predictions of a trained run for images: in batches, with the time they took, broken files noted.

for answer in answers(run, photos, top_k=3): print(answer.path, answer.names, answer.shares)
"""

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Num
from ml_collections import ConfigDict

from vpjax.core.errors import UserError
from vpjax.data import Loader, preset
from vpjax.data.files import composed
from vpjax.data.forgiving import readable_batches
from vpjax.data.order import few
from vpjax.data.photo_paths import Photo
from vpjax.data.source import Source
from vpjax.models.partition import ModelParts, merge
from vpjax.nn.context import EVALUATION
from vpjax.runs.experiment import BuiltModel
from vpjax.runs.inputs import image_to_input
from vpjax.runs.split_files import HALF
from vpjax.train.evaluate import make_settle

BATCH = 64  # default batch size of predictions


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The predictions of a run for n images.

    Attributes:
        labels: index of the most probable class of each image.
        class_names: name of that class.
        probabilities: of every class; softmax, or sigmoid where an image has several classes.
        paths: file of each image; "0", "1" ... where images are arrays.
        skipped: why files were left out, by their paths, if that was asked for.
        seconds: that reading and computing took, without compiling.
    """

    labels: Int[np.ndarray, " n"]
    class_names: tuple[str, ...]
    probabilities: Float[np.ndarray, "n C"]
    paths: tuple[str, ...]
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        best = self.probabilities.max(-1)
        shown = zip(self.paths, self.class_names, best, strict=True)
        lines = [f"{path}: {name} ({100 * share:.1f} %)" for path, name, share in shown]
        more = [f"... and {len(lines) - 10} more"] * (len(lines) > 10)
        lost = [f"{len(self.skipped)} could not be read"] * bool(self.skipped)
        return "\n".join([f"{len(self)} images", *lines[:10], *more, *lost])


def none_readable(skipped: Mapping[str, str], name: str = "images") -> UserError:
    """Return the error for images of which not one can be read.

    Args:
        skipped: why, by path.
        name: of the images.
    """
    if not skipped:
        return UserError(f"{name} has no images; give at least one")
    first, why = next(iter(skipped.items()))
    return UserError(
        f"none of {len(skipped)} images can be read; the first is {first}: {why}. Give paths of "
        "images, folders of images, or lists of paths."
    )


class Batch(NamedTuple):
    """What was computed of some images.

    Attributes:
        index: their positions in the source.
        values: by name, such as "logits", a row for each.
        seconds: that they took, without compiling.
    """

    index: Int[np.ndarray, " n"]
    values: dict[str, np.ndarray]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model that runs on images of a source.

    Attributes:
        parts: the model, with its trained parameters.
        built: its preprocessing.
        config: of the run.
    """

    parts: ModelParts
    built: BuiltModel
    config: ConfigDict

    def loader(self, source: Source, batch_size: int) -> Loader:
        """Return the batches of a source, each image once."""
        chosen, size = preset(self.built.preset), min(batch_size, max(1, len(source)))
        return Loader(source, size, chosen, self.built.image_size, train=False, keep=False)

    def to_input(self) -> Callable:
        """Return the function batch, key -> what the model takes."""
        channels = self.config.backbone.get("channels", 3)
        built = self.built
        return image_to_input(built.preset, built.image_size, channels, self.config.dtype)

    @functools.cached_property
    def _forward(self) -> Callable:
        graph, to_input = self.parts.graph, self.to_input()

        def forward(trainable, stats, frozen, settled, batch):
            ctx = dataclasses.replace(EVALUATION, settled=settled)
            out = merge(graph, trainable, stats, frozen)(to_input(batch, None), ctx)
            return {k: out[k].astype(jnp.float32) for k in ("logits", "features") if k in out}

        return jax.jit(forward)

    @functools.cached_property
    def settled(self) -> dict[str, jax.Array]:
        """What the method computes of no image, see `vpjax.methods.base.Method.settle`."""
        return make_settle(self.parts.graph)(*self.parts[1:])

    @functools.cached_property
    def _compiled(self) -> dict[tuple, Callable]:
        return {}

    def on(self, images: Num[np.ndarray, "B H W C"]) -> tuple[dict[str, jax.Array], float]:
        """Return logits and features of resized images, and the seconds it took to compile.

        Args:
            images: of the model's size, values 0 to 255.
        """
        weights, batch = (*self.parts[1:], self.settled), {"image": jnp.asarray(images)}
        key, seconds = (batch["image"].shape, batch["image"].dtype), 0.0
        if key not in self._compiled:
            begin = time.perf_counter()
            self._compiled[key] = self._forward.lower(*weights, batch).compile()
            seconds = time.perf_counter() - begin
        return self._compiled[key](*weights, batch), seconds

    def outputs(self, source: Source, batch_size: int = BATCH) -> Iterator[Batch]:
        """Yield logits and features of a source's images, batch by batch, without broken ones.

        Args:
            source: of images, "forgiving" or not.
            batch_size: images that are computed at once.
        """
        begin = time.perf_counter()
        for batch in readable_batches(self.loader(source, batch_size)):
            mask, (out, compiling) = batch["mask"], self.on(batch["image"])
            values = {k: np.asarray(v)[mask] for k, v in out.items()}
            begin += compiling
            now = time.perf_counter()
            yield Batch(batch["index"][mask], values, now - begin)
            begin = now


def probabilities(
    logits: Float[np.ndarray, "n C"], multilabel: bool, temperature: float = 1.0
) -> Float[np.ndarray, "n C"]:
    """Return softmax, or sigmoid where an image may have several classes.

    Args:
        logits: of all classes.
        multilabel: whether an image may have several classes.
        temperature: that logits are divided by.
    """
    share = jax.nn.sigmoid if multilabel else jax.nn.softmax
    return np.asarray(share(jnp.asarray(logits / temperature)))


class Answer(NamedTuple):
    """What a run says of a file.

    Attributes:
        path: of the file.
        labels: the most probable classes, the best first.
        names: of these classes.
        shares: their probabilities.
        classes: all classes from a probability of 0.5 on, where an image may have several; else ().
        milliseconds: that it took: of its batch, divided by the images in it.
        true: name of the class that its folder or list gives it; "": none.
    """

    path: str
    labels: tuple[int, ...]
    names: tuple[str, ...]
    shares: tuple[float, ...]
    classes: tuple[str, ...]
    milliseconds: float
    true: str = ""


def answers(
    run: Any,
    source: Source,
    photos: Sequence[Photo],
    top_k: int = 1,
    batch_size: int = BATCH,
    temperature: float = 1.0,
) -> Iterator[list[Answer]]:
    """Yield the answers for each batch, of images that can be read, in order.

    Args:
        run: a `vpjax.runs.run.Run`.
        source: of the photos; a forgiving one notes those that cannot be read.
        photos: all of them.
        top_k: classes to tell of each, the best first.
        batch_size: images that are computed at once.
        temperature: that logits are divided by.
    """
    for batch in run.predictor.outputs(source, batch_size):
        shares = probabilities(batch.values["logits"], run.multilabel, temperature)
        milliseconds = 1000 * batch.seconds / max(len(batch.index), 1)
        rows = zip(batch.index.tolist(), shares, strict=True)
        yield [answer_of(run, photos[i], row, top_k, milliseconds) for i, row in rows]


def answer_of(
    run: Any, photo: Photo, row: Float[np.ndarray, " C"], top_k: int, milliseconds: float
) -> Answer:
    """Return what a run says of a photo.

    Args:
        run: a `vpjax.runs.run.Run`.
        photo: its file.
        row: the probability of every class.
        top_k: classes to tell, the best first.
        milliseconds: that it took.
    """
    best = np.argsort(-row, kind="stable")[:top_k].tolist()
    said = np.flatnonzero(row >= HALF) if run.multilabel else ()
    names = tuple(run.classes[k] for k in best)
    shares = tuple(float(row[k]) for k in best)
    several = tuple(run.classes[k] for k in said)
    return Answer(photo.path, tuple(best), names, shares, several, milliseconds, photo.label)


def matched(photos: Sequence[Photo], classes: Sequence[str]) -> tuple[list[Photo], str]:
    """Return photos with their true classes if those of all are known to a run, else with none.

    Args:
        photos: with the names of their folders, or what a list says.
        classes: of the run.

    Returns:
        The photos; and, where only some are known, why there is no accuracy.
    """
    known = {composed(name): name for name in classes}
    other = [photo.label for photo in photos if photo.label not in known]
    if not other:
        return [photo._replace(label=known[photo.label]) for photo in photos], ""
    note = ""
    if len(other) < len(photos):
        names = few(dict.fromkeys(name or "no folder" for name in other))
        note = f"no accuracy: {len(other)} images are of no class of the run ({names})"
    return [photo._replace(label="") for photo in photos], note


class Tally:
    """Counts answers as they come.

    Attributes:
        images: answers so far.
        classes: how often each class was the best.
        skipped: why files could not be read, by path.
        seconds: that reading and computing took, without compiling.
    """

    def __init__(self):
        self.images, self.seconds = 0, 0.0
        self.classes: collections.Counter[str] = collections.Counter()
        self.skipped: dict[str, str] = {}
        self._right = self._labelled = 0

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        self.images += 1
        self.seconds += answer.milliseconds / 1000
        self.classes[answer.names[0]] += 1
        self._labelled += bool(answer.true)
        self._right += answer.true == answer.names[0]

    @property
    def accuracy(self) -> float | None:
        """Percent that are right; None if true classes are not known."""
        return 100 * self._right / self._labelled if self._labelled else None

    def lines(self) -> list[str]:
        """Return what to say at the end."""
        rate = self.images / self.seconds if self.seconds else 0.0
        out = [f"{self.images:,} images in {self.seconds:.1f} s ({rate:.1f} a second)"]
        if self.accuracy is not None:
            where = "their folders are called as the run's classes"
            out.append(f"accuracy {self.accuracy:.2f} % ({self._right} right): {where}")
        if self.skipped:
            out.append(f"{len(self.skipped)} files could not be read and are left out:")
            out += [f"  {path}: {why}" for path, why in self.skipped.items()]
        return out
