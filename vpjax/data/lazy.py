"""Third-party modules that are slow to import and that few runs need.

tfds = Lazy("tensorflow_datasets")    # imports nothing
tfds.features.Image                   # imports it, 0.3 s
"""

import importlib
from typing import Any


class Lazy:
    """Stands for a module, which is imported when an attribute is first asked for."""

    def __init__(self, name: str):
        self._name = name

    def __repr__(self) -> str:
        return f"Lazy({self._name!r})"

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)
