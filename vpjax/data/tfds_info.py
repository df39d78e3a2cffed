"""The metadata of a prepared TFDS data set, which anybody may have written: checked before use.

    dataset_info.json    name, version, splits and their shards
    features.json        the features, each with the name of TFDS's class for it

TFDS imports whatever module features.json names; here only its own are let through. Shards must lie
in the data set's folder, and hold no more examples than they have bytes.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vpjax.core.errors import UserError
from vpjax.core.under import inside
from vpjax.data.lazy import Lazy
from vpjax.data.text import read_json

tfds = Lazy("tensorflow_datasets")

INFO, FEATURES = "dataset_info.json", "features.json"
OWN = "tensorflow_datasets.core.features."  # modules that features.json may name
CLASS_KEYS = ("pythonClassName", "type")  # "type" in files before TFDS 4.6


@contextlib.contextmanager
def guarded(folder: str | os.PathLike) -> Iterator[None]:
    """Turn whatever damaged metadata raise in TFDS into a message."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"the data set in {folder} cannot be read without {error.name}: {FEATURES} has a "
            "feature that needs it, or is damaged. Install it, or prepare the data set again."
        ) from error
    except Exception as error:  # TFDS checks little: any kind
        reason = " ".join(str(error).split())[:200] or "no reason is given"
        raise UserError(
            f"the data set in {folder} cannot be read ({type(error).__name__}: {reason}): "
            f"{INFO}, {FEATURES} or a file of labels beside them is damaged. Prepare it again."
        ) from error


def open_builder(folder: str | os.PathLike) -> Any:
    """Return TFDS's builder of a prepared data set, whose metadata are sound.

    Raises:
        UserError: for broken JSON, or features of a class that is not TFDS's.
    """
    folder = Path(folder)
    read_json(folder / INFO)
    if (folder / FEATURES).exists():
        _check_classes(folder / FEATURES, read_json(folder / FEATURES))
    return tfds.builder_from_directory(os.fspath(folder))


def _check_classes(path: Path, content: Any) -> None:
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        if not isinstance(value, dict):
            continue
        waiting += value.values()
        for key in CLASS_KEYS:
            name = value.get(key)
            if isinstance(name, str) and "." in name and not name.startswith(OWN):
                raise UserError(
                    f"{path} has a feature of the class {json.dumps(name)}, which is none of "
                    "TFDS's own: to read it, that module would be imported. Prepare the data set "
                    "with TFDS's features."
                )


def check_shards(folder: str | os.PathLike, instructions: Sequence[Any]) -> None:
    """Check that the shards of a split lie in the data set's folder, and can hold their examples.

    Args:
        folder: of the data set.
        instructions: TFDS's file instructions.

    Raises:
        UserError: if one does not.
    """
    for piece in instructions:
        file = Path(os.fspath(piece.filename))
        if not inside(file, folder):
            raise UserError(
                f"{folder}: {INFO} names {file} as a file of the data, which lies outside of the "
                "folder. Prepare the data set again."
            )
        if ".tfrecord" in file.name:
            continue  # whose records are counted
        if file.is_file() and piece.examples_in_shard > (size := file.stat().st_size):
            raise UserError(
                f"{folder}: {INFO} promises {piece.examples_in_shard:,} examples in {file.name}, "
                f"which has {size:,} bytes. Prepare the data set again."
            )


def undecoded(features: Any) -> dict[str, Any]:
    """Return decoders that leave every image encoded, however deep it lies among the features."""
    out = {}
    for name, feature in features.items():
        leaf = feature
        while isinstance(leaf, tfds.features.Sequence):
            leaf = leaf.feature
        if isinstance(leaf, tfds.features.Image):
            out[name] = tfds.decode.SkipDecoding()
        elif isinstance(leaf, tfds.features.FeaturesDict) and (inner := undecoded(leaf)):
            out[name] = inner
    return out
