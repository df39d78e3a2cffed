"""model.safetensors: what a run has learnt, in one file that says by itself what it is.

    arrays     trainable parameters and running averages by their names, "method/prompts/0" ...
    metadata   classes, preset, method and its options, backbone, name and digest of the base
               weights, a note on their licence, version, metrics, and the whole config

Frozen weights are not in it. `vpjax.load_run` takes the file alone, or a folder that holds it
instead of checkpoints. Other programs read it with the library safetensors: metadata that are not
plain text are JSON.
"""

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from vpjax.core import forms
from vpjax.core.errors import UserError
from vpjax.core.files import atomic, json_digest, open_to_readers
from vpjax.train.checkpoint import digest

FILE = "model.safetensors"
FORMAT = "vpjax-run-1"  # of these files; another number: a reader of today cannot know it
TEXT = ("format", "vpjax", "preset", "method", "backbone", "weights", "weights_sha256", "licence")
SEAL = "metadata_sha256"  # of all other metadata, which earlier versions did not write
TEXT += ("digest", SEAL)
# What the metadata hold, those of TEXT aside, which are text in any case.
FACTS = {
    **dict.fromkeys(TEXT[:-1], str),
    "classes": [str],
    "class_info": dict,
    "image_size": [int],
    "method_options": dict,
    "metrics": {"step": int},
    "identity": forms.ANY,
    "config": {"method": dict, "data": dict, "backbone": dict},
}


def write(path: Path, arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write what was learnt, atomically.

    Args:
        path: the file.
        arrays: by name, on the host.
        facts: the metadata but version, format and digest, see `TEXT` for those that are text.
    """
    arrays = {n: np.asarray(a, order="C") for n, a in arrays.items()}  # scalars stay scalars
    facts = {"format": FORMAT, "vpjax": importlib.metadata.version("vpjax")} | dict(facts)
    facts["digest"] = digest(arrays)
    texts = {k: v if k in TEXT else json.dumps(v, default=list) for k, v in facts.items()}
    texts[SEAL] = _seal(texts)
    with atomic(path) as new:
        safetensors.numpy.save_file(arrays, new, texts)
        open_to_readers(new)


def find(where: Path) -> Path | None:
    """Return the file in a run's folder, or `where` if it is such a file; None if there is none."""
    path = where if where.suffix == ".safetensors" else where / FILE
    return path if path.is_file() else None


def written_by_a_run(path: Path) -> bool:
    """Return whether a file says that a run of vpjax has written it.

    Raises:
        UserError: if it is damaged.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    return _texts(path).get("format", "").startswith("vpjax-run")


def read_facts(path: Path) -> dict[str, Any]:
    """Return the metadata of a file; no array is read.

    Raises:
        UserError: if the file is damaged, or is not one that a run of vpjax has written.
    """
    texts = _texts(path)
    if texts.get("format") != FORMAT:
        kind = texts.get("format", "")
        found = f"its format is {kind!r}" if kind.startswith("vpjax-run") else "it has no metadata"
        raise UserError(
            f"{path} is not what a run of this version of vpjax learnt: {found}, and {FORMAT!r} "
            "was expected. A backbone's weights are loaded with vpjax.load_backbone."
        )
    if SEAL in texts and texts[SEAL] != _seal(texts):
        raise UserError(
            f"{path} is damaged: its metadata do not have the sha256 they were saved with. Copy it "
            "again from the run's folder."
        )
    try:
        facts = {k: v if k in TEXT else json.loads(v) for k, v in texts.items()}
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path} is damaged: its metadata are no JSON ({e}). Copy it again.") from e
    forms.check(facts, FACTS, path, "Copy it again.")
    return facts


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name.

    Raises:
        UserError: if the file is damaged.
    """
    expected = read_facts(path)["digest"]
    arrays = _opened(path, lambda file: {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    if digest(arrays) != expected:
        raise UserError(
            f"{path} is damaged: its arrays do not have the sha256 they were saved with. Copy it "
            "again from the run's folder."
        )
    return arrays


def _seal(texts: Mapping[str, str]) -> str:
    return json_digest({k: v for k, v in texts.items() if k != SEAL})


def _texts(path: Path) -> dict[str, str]:
    return _opened(path, lambda file: file.metadata()) or {}


def _opened(path: Path, read: Any) -> Any:
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return read(file)
    except safetensors.SafetensorError as e:
        raise UserError(f"{path} is damaged, or no safetensors file ({e}). Copy it again.") from e
