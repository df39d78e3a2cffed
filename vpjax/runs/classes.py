"""The classes of a run, and what else an evaluation needs to know of the training images.

classes.json in a run's folder holds it, so that no training image is needed afterwards.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from vpjax.core import forms, registry
from vpjax.core.errors import UserError
from vpjax.core.files import write_json
from vpjax.data.class_names import named
from vpjax.data.source import Source
from vpjax.runs import model_file

FORM = {
    "names": [str],
    "metadata": [{"name?": str}],
    "multilabel": bool,
    "images?": int,
    "counts?": ([int], None),
}
ADVICE = (
    "Restore it from a copy; or rename it where model.safetensors is, which holds the same, or "
    "give the command that trained the run again, which writes it anew."
)
READ = 200_000  # training examples that may be read only to count their labels


class ClassInfo(NamedTuple):
    """The classes of a model, in the order of its logits.

    Attributes:
        names: of the classes.
        metadata: of each class, {"name": ...} and what else the data set knows.
        multilabel: whether an image may have several classes, or none.
        images: number of training images; 0: not known.
        counts: those of each class; None: not known.
    """

    names: tuple[str, ...]
    metadata: tuple[Mapping[str, Any], ...]
    multilabel: bool = False
    images: int = 0
    counts: tuple[int, ...] | None = None


def classes_of(config: ConfigDict, train: Source) -> ClassInfo:
    """Return the classes of training images, with the names that a config's file gives them.

    Their images of each class are not counted, as labels may have to be read for that.
    """
    metadata = train.metadata
    method = registry.lookup("methods", config.method.name)
    if method.reads_class_names or method.learns_texts:
        metadata = tuple(named(train.classes, metadata, config.text.class_names))
    return ClassInfo(train.classes, metadata, train.multilabel, len(train))


def training_counts(train: Source) -> Int[np.ndarray, " C"] | None:
    """Return the number of training images of each class; None where counting takes long.

    Raises:
        UserError: for a label out of range.
    """
    if not train.labels_known and len(train) > READ:
        return None
    train.check(train.num_classes)
    return train.counts()


def write_classes(classes: ClassInfo, folder: Path) -> None:
    """Write classes.json."""
    write_json(folder / "classes.json", classes._asdict())


def read_classes(folder: Path) -> ClassInfo:
    """Read classes.json from the folder of a run.

    Raises:
        UserError: if it is missing, or damaged.
    """
    path = folder / "classes.json"
    found = forms.read(path, FORM, ADVICE)
    if found is None and (file := model_file.find(folder)):
        path, found = file, model_file.read_facts(file)["class_info"]
        forms.check(found, FORM, path, "Copy it again.")
    if found is None:
        raise UserError(
            f"{folder} has no classes.json: it is no run of vpjax, or training has not begun. Give "
            "the folder of another run."
        )
    counts, names = found.get("counts"), len(found["names"])
    if not names or len(found["metadata"]) != names or len(counts or found["names"]) != names:
        raise forms.Damaged(
            f"{path} is damaged: it has {names} names, {len(found['metadata'])} metadata and "
            f"{'no' if counts is None else len(counts)} counts. {ADVICE}"
        )
    return ClassInfo(
        tuple(found["names"]),
        tuple(found["metadata"]),
        found["multilabel"],
        found.get("images", 0),
        None if counts is None else tuple(counts),
    )
