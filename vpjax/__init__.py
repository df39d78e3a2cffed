"""vpjax: visual prompt tuning in JAX.

    import vpjax

    backbone = vpjax.load_backbone("digits_vit")
    model = vpjax.create_model(backbone, "vpt.VPT", num_tokens=8, num_classes=5)
    run = vpjax.fit(model, train=(images, labels), epochs=20, workdir="runs/mine")
    run.predict(new_images).labels

See docs/api.md. Names are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vpjax.core.errors import UserError
    from vpjax.data.arrays import from_arrays
    from vpjax.data.preprocess import preprocess
    from vpjax.models.create import (
        create_model,
        list_backbones,
        list_methods,
        load_backbone,
        options_of,
    )
    from vpjax.runs.api import fit
    from vpjax.runs.callbacks import Callback
    from vpjax.runs.merge import merge
    from vpjax.runs.run import Prediction, Run, load_run
    from vpjax.runs.share import pull_run, push_run
    from vpjax.weights.catalog import list_weights

__all__ = [
    "Callback",
    "Prediction",
    "Run",
    "UserError",
    "create_model",
    "fit",
    "from_arrays",
    "list_backbones",
    "list_methods",
    "list_weights",
    "load_backbone",
    "load_run",
    "merge",
    "options_of",
    "preprocess",
    "pull_run",
    "push_run",
]
_MODULES = {
    "Callback": "runs.callbacks",
    "Prediction": "runs.run",
    "Run": "runs.run",
    "UserError": "core.errors",
    "create_model": "models.create",
    "fit": "runs.api",
    "from_arrays": "data.arrays",
    "list_backbones": "models.create",
    "list_methods": "models.create",
    "list_weights": "weights.catalog",
    "load_backbone": "models.create",
    "load_run": "runs.run",
    "merge": "runs.merge",
    "options_of": "models.create",
    "preprocess": "data.preprocess",
    "pull_run": "runs.share",
    "push_run": "runs.share",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'vpjax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"vpjax.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
