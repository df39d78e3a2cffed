"""Data sets, their preprocessing, and batches."""

from vpjax.data.arrays import from_arrays, open_images
from vpjax.data.loader import Loader
from vpjax.data.open import open_source
from vpjax.data.source import Source
from vpjax.data.transforms import PRESETS, Preset, preset

__all__ = [
    "PRESETS",
    "Loader",
    "Preset",
    "Source",
    "from_arrays",
    "open_images",
    "open_source",
    "preset",
]
