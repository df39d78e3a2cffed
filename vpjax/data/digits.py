"""Handwritten digits, 8x8 pixels: the data set that needs no download.

1,797 grey images by 13 writers: the test part of "Optical Recognition of Handwritten Digits" by
E. Alpaydin and C. Kaynak (UCI Machine Learning Repository, 1998), read from the copy that comes
with scikit-learn. A value counts the inked pixels, 0 to 16, of a 4x4 block; it becomes 0 to 255.

Two configs, five classes each, so that a small model can be pre-trained on one half of the digits
and tuned to the other: "digits/low" holds 0-4, "digits/high" 5-9. One seeded permutation of all
images puts 1,437 in train and 360 in test (high: 729 and 167).
"""

import contextlib
import importlib.util
import io
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int64, UInt8
from PIL import Image

from vpjax.core.errors import UserError, unknown
from vpjax.core.files import cache_folder

CONFIGS = {"low": range(0, 5), "high": range(5, 10)}
VERSION = "1.0.0"
TRAIN = 1437


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The 8x8 digits as a TFDS data set, in two halves."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=name, description=f"Digits {digits[0]} to {digits[-1]}.")
        for name, digits in CONFIGS.items()
    ]

    def _info(self):
        names = [str(digit) for digit in CONFIGS[self.builder_config.name]]
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=names),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager):
        order = np.random.default_rng(0).permutation(1797)
        return {"train": self._examples(order[:TRAIN]), "test": self._examples(order[TRAIN:])}

    def _generate_examples(self):  # TFDS asks for the method; the splits bring their own
        raise NotImplementedError

    def _examples(self, rows):
        images, digits = load()
        wanted = CONFIGS[self.builder_config.name]
        for row in rows:
            if digits[row] in wanted:
                # A PIL image: TFDS would encode an array through TensorFlow.
                image = Image.fromarray(images[row])
                yield int(row), {"image": image, "label": int(digits[row] - wanted[0])}


def load() -> tuple[UInt8[np.ndarray, "n 8 8"], Int64[np.ndarray, "n"]]:
    """Returns all images and which digit each one is."""
    package = Path(importlib.util.find_spec("sklearn").submodule_search_locations[0])
    table = package / "datasets" / "data" / "digits.csv.gz"
    if table.exists():  # importing scikit-learn takes longer than all the rest
        table = np.loadtxt(table, delimiter=",")
        images, digits = table[:, :-1], table[:, -1]
    else:
        from sklearn.datasets import load_digits

        images, digits = load_digits(return_X_y=True)
    images = np.rint(images * 255 / 16).astype(np.uint8).reshape(-1, 8, 8)
    return images, digits.astype(np.int64)


def prepare(name: str, data_dir: str | os.PathLike | None = None) -> Path:
    """Returns the folder of "digits/low" or "digits/high", writing it first if it is not there.

    Without `data_dir` it lies in the cache folder. Safe while other processes do the same: the data
    set is written aside and renamed, and whoever is second throws its own copy away.
    """
    known = [f"digits/{config}" for config in CONFIGS]
    name = name.removesuffix(f":{VERSION}")
    if name not in known:
        raise unknown("half of the digits", name, known)
    config = name.removeprefix("digits/")
    root = Path(data_dir).expanduser() if data_dir else cache_folder() / "data"
    folder = root / "digits" / config / VERSION
    if (folder / "dataset_info.json").exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = tempfile.mkdtemp(prefix=".incomplete-", dir=root)
    except OSError as error:
        raise UserError(
            f"cannot write the digits to {root}: {error}. Name a folder you can write to as "
            "data_dir, or set VPJAX_CACHE."
        ) from error
    try:
        builder = Digits(config=config, data_dir=aside)
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # a second's work needs no banner
            builder.download_and_prepare(file_format="array_record")
        with contextlib.suppress(OSError):  # another process was first
            os.rename(builder.data_path, folder)
    finally:
        tfds.enable_progress_bar()
        shutil.rmtree(aside, ignore_errors=True)
    if not (folder / "dataset_info.json").exists():
        raise UserError(f"could not write the digits to {folder}. Is the disk full or read-only?")
    return folder
