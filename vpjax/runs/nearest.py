"""The training pictures that are nearest to a photo, by the features that a run's head reads.

    nearest.npz    in the run's folder: the features, of which images they are, and a record of what
                   they were computed from; another checkpoint or other data, and they are new

Nearness is the cosine of two features. Of many training images some are searched, spread evenly.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from vpjax.core import kept
from vpjax.core.errors import UserError
from vpjax.core.progress import Progress
from vpjax.data.features import content
from vpjax.data.forgiving import Forgiving
from vpjax.data.pick import pick
from vpjax.data.source import Source
from vpjax.data.subset import with_classes
from vpjax.runs import places
from vpjax.runs.experiment import held, open_split
from vpjax.runs.run import Run
from vpjax.train.checkpoint import digest

log = logging.getLogger(__name__)

FILE = "nearest.npz"
MOST = 2000  # training images that are searched, by default
BATCH = 32
SAMPLE = 64  # images whose bytes the record is made of; of all others it has the paths


class Near(NamedTuple):
    """A training image: its position in the source, and the cosine with what was asked for."""

    index: int
    cosine: float


class Nearest:
    """Features of training images, to be searched.

    Args:
        source: the training images.
        features: of some of them, n D.
        indices: which these are.
    """

    def __init__(self, source: Source, features: Float[np.ndarray, "n D"], indices: np.ndarray):
        self.source, self.indices = source, indices
        self._features = _unit(features)

    def __len__(self) -> int:
        return len(self.indices)

    def find(self, features: Float[np.ndarray, " D"], count: int) -> list[Near]:
        """Return the nearest images, the nearest first.

        Args:
            features: of a photo.
            count: how many.
        """
        cosines = self._features @ _unit(features[None])[0]
        best = np.argsort(-cosines, kind="stable")[:count]
        return [Near(int(self.indices[i]), float(cosines[i])) for i in best]


def open_run_split(run: Run, split: str) -> Source:
    """Open "train", "val" or "test" of a run, labelled as its classes.

    Args:
        run: trained.
        split: which.

    Raises:
        UserError: if the data are not there.
    """
    if not run.config.data[split]:
        raise UserError(f"the run {run.folder} has no {split} split")
    if run.config.data.name == "arrays":
        raise UserError(f"the run {run.folder} was trained on arrays, which are in no file")
    places.check(run.config, run.folder, ("data.dir", "data.name"))
    try:
        source = open_split(run.config, split, held(run.config, run.folder))
    except OSError as error:
        raise UserError(f"the data of the run cannot be read: {error}") from error
    if not len(source):
        raise UserError(f"{source.name} has no images")
    return with_classes(source, run.classes, run.metadata)


def nearest_of(run: Run, most: int = MOST) -> Nearest:
    """Return the training images of a run, ready to be searched.

    Their features are read from the run's folder, or computed and kept there.

    Args:
        run: trained.
        most: images that are searched, at most.

    Raises:
        UserError: if the training images are not there, or cannot be read.
    """
    source = open_run_split(run, "train")
    indices = np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).round().astype(int))
    chosen = pick(source, indices, source.name)
    path, record = run.folder / FILE, _record(run, source, chosen)
    found = _read(path, record)
    if found is None:
        found = _compute(run, chosen)
        _write(path, record, *found)
    features, rows = found
    if not len(rows):
        raise UserError(f"{source.name}: no image can be read")
    return Nearest(source, features, indices[rows])


def _compute(run: Run, chosen: Source) -> tuple[np.ndarray, np.ndarray]:
    """Return features, and the positions of the images that can be read."""
    found, rows, done = [], [], 0
    with Progress(len(chosen), batch_size=1, what="training pictures") as progress:
        for batch in run.predictor.outputs(Forgiving(chosen), BATCH):
            if "features" not in batch.values:
                raise UserError(f"{run.config.method.name} has no features of an image to compare")
            found.append(batch.values["features"])
            rows.append(batch.index)
            done = min(done + BATCH, len(chosen))
            progress.update(done)
    return np.concatenate(found), np.concatenate(rows)


def _record(run: Run, source: Source, chosen: Source) -> str:
    """Return what features depend on, as JSON."""
    predictor, n = run.predictor, len(chosen)
    names = getattr(chosen.records, "names", None) or ()
    some = np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).astype(int))
    facts: dict[str, Any] = {
        "data": source.name,
        "images": len(source),
        "searched": n,
        "paths": hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest(),
        "content": content(pick(chosen, some, source.name)),
        "step": run.step,
        "learnt": digest((predictor.parts.trainable, predictor.parts.stats)),
        "backbone": dict(predictor.built.identity),
        "preset": predictor.built.preset,
        "image_size": list(predictor.built.image_size),
        "dtype": run.config.dtype,
    }
    return json.dumps(facts, sort_keys=True)


def _read(path: Path, record: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Return features and positions that were kept; None if there are none, or of other things."""
    found = kept.read_arrays(path)
    if found is None or str(found["record"]) != record:
        return None
    return found["features"], found["rows"]


def _write(path: Path, record: str, features: np.ndarray, rows: np.ndarray) -> None:
    try:
        arrays = {"features": features, "rows": rows, "record": np.array(record)}
        kept.write_arrays(path, arrays)
    except OSError as error:
        log.warning("%s cannot be kept (%s): it is computed anew each time", path, error.strerror)


def _unit(features: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n D"]:
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
