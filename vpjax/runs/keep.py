"""Keeps what a run has learnt as model.safetensors, see `vpjax.runs.model_file`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpjax.runs import model_file
from vpjax.runs.experiment import BuiltModel, ClassInfo, Experiment
from vpjax.runs.restore import padded_rows
from vpjax.train import sharding
from vpjax.train.checkpoint import checkpoint_items, without_padding
from vpjax.train.step import State
from vpjax.weights.licence import licence_note


def write_learnt(
    config: ConfigDict,
    classes: ClassInfo,
    made: Experiment | BuiltModel,
    state: State,
    metrics: Mapping[str, Any],
    path: Path,
) -> None:
    """Write a model.safetensors: what was learnt, and all that is needed to use it.

    All processes of a run must call it together.

    Args:
        config: of the run.
        classes: of the run.
        made: says preset, image size, weights and identity.
        state: the one that is reported.
        metrics: by name; "step" is one of them.
        path: the file.
    """
    weights = checkpoint_items(state)["weights"]
    weights = without_padding(weights, padded_rows(config, classes.names))
    arrays = {n: sharding.to_host(v) for part in weights.values() for n, v in part.items()}
    method, where, loaded = config.method.to_dict(), config.backbone.weights, made.loaded
    facts = {
        "classes": classes.names,
        "class_info": classes._asdict(),
        "preset": made.preset,
        "image_size": made.image_size,
        "method": method.pop("name"),
        "method_options": method,
        "backbone": config.backbone.name,
        "weights": where,
        "weights_sha256": loaded.sha256 if loaded else "",
        "licence": licence_note(where, loaded.path if loaded else None),
        "metrics": metrics,
        "identity": made.identity,
        "config": config.to_dict(),
    }
    model_file.write(path, arrays, facts)
