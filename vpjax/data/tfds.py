"""Prepared TFDS data sets, read without TensorFlow.

    <data_dir>/<name>[/<config>]/<version>/{dataset_info.json, features.json, shards}

`find` chooses the folder, `read` opens a split of it. Shards in array_record format are read by
TFDS itself; shards in tfrecord format, which plain TFDS writes by default, by `tfrecord.py`.
An explicit version wins; otherwise the highest prepared one does, even if TFDS knows a newer one
(TFDS itself would ignore the older data and download). TFDS, which takes 0.3 s to import, is
imported when a data set of its kind is opened.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from vpjax.core.errors import UserError, unknown
from vpjax.core.reading import reading
from vpjax.data.lazy import Lazy
from vpjax.data.records import Piece, Record
from vpjax.data.source import Source
from vpjax.data.tfds_info import check_shards, guarded, open_builder, undecoded
from vpjax.data.tfrecord import TFRecords

tfds = Lazy("tensorflow_datasets")

NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[^:/]+))?(:(?P<version>\d+\.\d+\.\d+))?")
VERSION = re.compile(r"\d+\.\d+\.\d+")
FILE_NAMES = ("image/file_name", "image/filename", "file_name", "filename", "id", "name")


class Name(NamedTuple):
    """A data set's name in its parts."""

    name: str
    config: str | None
    version: str | None

    def __str__(self) -> str:
        config = f"/{self.config}" if self.config else ""
        return f"{self.name}{config}" + (f":{self.version}" if self.version else "")


def parse(name: str) -> Name:
    """Split "eurosat/rgb:2.0.0" into its parts.

    Raises: UserError for a name of another form.
    """
    if match := NAME.fullmatch(name):
        return Name(**match.groupdict())
    raise UserError(
        f"data set name {name!r} is not of the form name, name/config or name:1.2.3, such as "
        "'cifar10', 'eurosat/rgb' or 'cifar10:3.0.2', nor is it a kind of files, such as "
        "'folder:PATH' or 'csv:FILE'."
    )


def root(data_dir: str | os.PathLike | None) -> Path:
    """Return the folder that holds prepared data sets: by default `TFDS_DATA_DIR`, or TFDS's."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find(name: str, data_dir: str | os.PathLike | None = None) -> Path | None:
    """Return the folder of a prepared data set, or None if it is not prepared.

    Args:
        name: such as "cifar10", "eurosat/rgb" or "cifar10:3.0.2". Without a config, the builder's
            first config is meant if there are several; without a version, the highest prepared.
        data_dir: folder of prepared data sets, see `root`.

    Raises:
        UserError: if a config is needed and cannot be guessed.
    """
    wanted = parse(name)
    folder = root(data_dir) / wanted.name
    if not folder.is_dir():
        return None
    if wanted.config:
        folder /= wanted.config
    elif not versions(folder):
        configs = sorted(f.name for f in folder.iterdir() if f.is_dir() and versions(f))
        if not configs:
            return None
        default = default_config(wanted.name)
        if len(configs) > 1 and default not in configs:
            raise UserError(
                f"{wanted.name} in {root(data_dir)} has several configs: {', '.join(configs)}. "
                f"Choose one, such as {wanted.name}/{configs[0]!s}."
            )
        if default and default not in configs:
            return None
        folder /= default or configs[0]
    prepared = versions(folder)
    if wanted.version:
        return folder / wanted.version if wanted.version in prepared else None
    return folder / prepared[-1] if prepared else None


def versions(folder: Path) -> list[str]:
    """Return the prepared versions in a folder, lowest first."""
    found = (f.parent.name for f in folder.glob("*/dataset_info.json"))
    return sorted(
        (v for v in found if VERSION.fullmatch(v)), key=lambda v: [int(n) for n in v.split(".")]
    )


def default_config(name: str) -> str | None:
    """Return the config TFDS takes when none is named, or None."""
    try:
        configs = tfds.builder_cls(name).BUILDER_CONFIGS
    except tfds.core.registered.DatasetNotFoundError:
        return None  # an imported data set: nothing but its folder exists
    return configs[0].name if configs else None


def read(
    folder: str | os.PathLike,
    split: str,
    image: str = "image",
    label: str | Callable[[dict[str, Any]], int] = "label",
    classes: Sequence[str] | None = None,
) -> Source:
    """Opens a split of a prepared data set.

    Args:
        folder: the prepared version, see `find`.
        split: TFDS split string.
        image: feature that holds the image.
        label: feature that holds the label; or a function of an example, with images left encoded,
            that returns it. A sequence of labels makes a multilabel source. "labels" is read where
            there is no "label".
        classes: class names; needed where `label` is a function.

    Raises:
        UserError: for an unknown split or feature, or an unsupported file format.
    """
    with guarded(folder):
        return _read(folder, split, image, label, classes)


def _read(folder, split, image, label, classes) -> Source:
    builder = open_builder(folder)
    info = builder.info
    name = str(Name(builder.name, builder.builder_config and builder.builder_config.name, None))
    name = f"{name}:{builder.version}"
    instructions = _file_instructions(info, f"{name} in {builder.data_path}", split)
    check_shards(folder, instructions)
    features = info.features
    if label == "label" and label not in features and "labels" in features:
        label = "labels"
    for wanted in (image, label):
        if isinstance(wanted, str) and wanted not in features:
            raise unknown(f"feature of {name}", wanted, features)
    if classes is None:
        classes = _class_names(name, features, label)
    where = f"{name}[{split}] in {builder.data_path}"
    raw = _raw(builder, name, split, instructions)
    pieces = [Piece(os.fspath(i.filename), i.skip, i.skip + i.take) for i in instructions if i.take]
    records = Examples(raw, features, image, label, where, pieces)
    several = isinstance(label, str) and isinstance(features[label], tfds.features.Sequence)
    return Source(f"{name}[{split}]", classes, records, features[image].shape, several)


def _file_instructions(info, name, split):
    """Return TFDS's list of (file, skip, take) for a split string."""
    for part in split.split("+"):
        base = part.split("[")[0].strip()
        if base != "all" and base not in info.splits:
            raise unknown(f"split of {name}", base, info.splits)
    try:
        return info.splits[split].file_instructions
    except (ValueError, AssertionError, KeyError) as error:
        sizes = ", ".join(f"{s} ({info.splits[s].num_examples})" for s in info.splits)
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"split {split!r} of {name} cannot be read: {reason}. Splits and sizes: {sizes}."
        ) from error


def _raw(builder, name, split, instructions):
    """Return the serialised examples of a split as a random-access list."""
    file_format = builder.info.file_format.value
    if not instructions:
        return _Empty()
    if file_format == "tfrecord":
        return TFRecords(instructions)
    if file_format == "array_record":
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        return builder.as_data_source(split, deserialize_method=raw)
    raise UserError(
        f"{name} in {builder.data_path} is stored as {file_format}; array_record and tfrecord can "
        "be read. Prepare it again."
    )


class _Empty(list):
    """The records of an empty split."""

    def __getitems__(self, indices):
        return [self[i] for i in indices]


def _class_names(name, features, label):
    feature = features[label] if isinstance(label, str) else None
    if isinstance(feature, tfds.features.Sequence):
        feature = feature.feature
    if isinstance(feature, tfds.features.ClassLabel) and feature.num_classes is not None:
        return feature.names or [str(i) for i in range(feature.num_classes)]
    raise UserError(
        f"{name}: the classes of label {label!r} are not in the data. Give names as `classes`."
    )


def sizes(folder: str | os.PathLike) -> dict[str, int]:
    """Return how many examples each split of a prepared data set has."""
    with guarded(folder):
        info = open_builder(folder).info
        return {name: split.num_examples for name, split in info.splits.items()}


class Examples:
    """Serialised TFDS examples as records: parsed, with images left encoded.

    `where` names the data in errors. Reading raises a UserError for a file that is damaged.
    """

    def __init__(self, raw, features, image, label, where, pieces):
        self._where, self.pieces = where, pieces
        self._raw, self._features, self._image = raw, features, image
        self._label = label if callable(label) else lambda example: example[label]
        self._decoders = undecoded(features)
        self._file = next((f for f in FILE_NAMES if f in features), None)

    def __len__(self) -> int:
        return len(self._raw)

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        indices = [int(i) for i in indices]  # array_record wants a list of plain integers
        try:
            with reading(f"examples {min(indices)} to {max(indices)} of {self._where}"):
                return [self._record(data) for data in self._raw.__getitems__(indices)]
        except (RuntimeError, ValueError, IndexError, OSError, DecodeError) as error:
            raise UserError(
                f"{self._where}: examples {min(indices)} to {max(indices)} cannot be read: "
                f"{str(error)[:200]}. A file is damaged; prepare the data set again."
            ) from error

    def _record(self, data):
        example = self._features.deserialize_example_np(data, decoders=self._decoders)
        file = example[self._file] if self._file else None
        file = file.decode(errors="replace") if isinstance(file, bytes) else file
        label = np.asarray(self._label(example), np.int64)
        label = tuple(label.tolist()) if label.ndim else int(label)
        return Record(example[self._image], label, file and str(file))
