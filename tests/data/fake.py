"""Tiny TFDS data sets on disk, written by the official builders with random content.

`fake_tfds(folder, "cifar10", {"train": 40, "test": 16})` leaves in `folder` what a user has after
preparing CIFAR-10, but with 56 random images: name, version, features and file layout are those
of the real thing, so all code after it runs on the true path. No network, no TensorFlow.
"""

import contextlib
import functools
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from vpjax.data import tfds as prepared

SIDE = (20, 40)  # pixels; images without a fixed size get sides between these


def fake_tfds(
    folder: Path,
    name: str,
    splits: dict[str, int],
    shards: int | None = None,
    version=None,
    lengths=(0, 1, 2, 3),
) -> Path:
    """Writes a data set with that many random examples a split; returns its folder.

    Label i is example number modulo the number of classes. `version` replaces the official one;
    `lengths` are those of sequences, such as a scene's objects, in turn.
    """
    wanted = prepared.parse(name)
    official = tfds.builder_cls(wanted.name)
    members = {
        "name": official.name,
        "__module__": official.__module__,
        "pkg_dir_path": official.pkg_dir_path,
        "_split_generators": lambda self, dl_manager: {
            split: examples(self.info.features, split, n, lengths) for split, n in splits.items()
        },
    }
    if version:
        members |= {"VERSION": tfds.core.Version(version), "SUPPORTED_VERSIONS": []}
    with tfds.core.registered.skip_registration():
        fake = type(official.__name__, (official,), members)
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        builder = fake(config=wanted.config, data_dir=folder, file_format="array_record")
        config = tfds.download.DownloadConfig(num_shards=shards, try_download_gcs=False)
        builder.download_and_prepare(file_format="array_record", download_config=config)
    return Path(builder.data_dir)


def examples(features, split, n, lengths):
    """Yields n random examples of the given features."""
    for i in range(n):
        rng = np.random.default_rng([zlib.crc32(split.encode()), i])
        yield i, {k: value(rng, feature, i, lengths) for k, feature in features.items()}


def value(rng, feature, i, lengths):
    """Returns a random value of one feature."""
    if isinstance(feature, tfds.features.Image):
        return picture(rng, feature.shape)
    if isinstance(feature, tfds.features.ClassLabel):
        return i % feature.num_classes
    if isinstance(feature, tfds.features.Text):
        return f"file-{i}.jpg"
    if isinstance(feature, tfds.features.FeaturesDict):
        return {k: value(rng, f, i, lengths) for k, f in feature.items()}
    if isinstance(feature, tfds.features.Sequence):
        n = lengths[i % len(lengths)]
        return [value(rng, feature.feature, i + j, lengths) for j in range(n)]
    if isinstance(feature, tfds.features.BBoxFeature):
        return tfds.features.BBox(0.1, 0.1, 0.5, 0.5)
    dtype = np.dtype(feature.np_dtype)
    if dtype.kind == "f":
        return rng.uniform(0, 12, feature.shape).astype(dtype)
    if dtype.kind == "O" or dtype.kind in "SU":
        return f"text-{i}"
    return rng.integers(0, 2, feature.shape).astype(dtype)


def picture(rng, shape):
    """Returns a random PIL image; TFDS would need TensorFlow to encode an array."""
    height, width = (side or int(rng.integers(*SIDE)) for side in shape[:2])
    array = rng.integers(0, 256, (height, width, shape[2]), np.uint8)
    return Image.fromarray(array[:, :, 0] if shape[2] == 1 else array)


def as_tfrecord(folder: Path) -> None:
    """Rewrites a prepared data set as tfrecord, the format that plain TFDS writes."""
    for path in folder.glob("*.array_record-*"):
        reader = ArrayRecordReader(str(path))
        records = reader.read_all()
        reader.close()
        target = path.with_name(path.name.replace("array_record", "tfrecord"))
        target.write_bytes(b"".join(frame(record) for record in records))
        path.unlink()
    info = folder / "dataset_info.json"
    description = json.loads(info.read_text())
    description["fileFormat"] = "tfrecord"
    for split in description["splits"]:
        if template := split.get("filepathTemplate"):
            split["filepathTemplate"] = template.replace("array_record", "tfrecord")
    info.write_text(json.dumps(description))


def frame(payload: bytes) -> bytes:
    """Returns a record with its length and both checksums, as in a TFRecord file."""
    length = struct.pack("<Q", len(payload))
    return length + struct.pack("<I", masked(length)) + payload + struct.pack("<I", masked(payload))


def masked(data: bytes) -> int:
    """Returns the checksum of TFRecord files: CRC-32C, rotated and shifted."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table()[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def table():
    """Returns the 256 steps of CRC-32C."""
    entries = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (0x82F63B78 if entry & 1 else 0)
        entries.append(entry)
    return entries
