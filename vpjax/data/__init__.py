"""Data sets, their preprocessing, and batches."""

from vpjax.data.loader import Loader
from vpjax.data.source import open_source
from vpjax.data.transforms import PRESETS, preset

__all__ = ["PRESETS", "Loader", "open_source", "preset"]
