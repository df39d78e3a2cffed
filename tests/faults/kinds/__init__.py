"""The kinds of faults, a module for each part of the library; `load` imports all of them."""

import importlib
import pkgutil


def load() -> None:
    """Import every module of this folder, which registers its kinds."""
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{module}")
