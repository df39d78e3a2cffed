"""Which backbone a file of weights is, from its configuration and its arrays.

    "timm/vit_small_patch14_dinov2.lvd142m"
        -> config.json and model.safetensors in the hub's cache
        -> "a timm vit_small_patch14_dinov2": class vit.ViT, its options, its preprocessing

A name of the catalogue is known without opening anything. Everything else is read once: names and
shapes of the arrays, and the configuration beside the file. A module of FORMATS
(`vpjax.weights.load`) then says what they mean.
"""

import dataclasses
import functools
from pathlib import Path
from types import ModuleType

from vpjax.core.errors import UserError
from vpjax.data.transforms import PRESETS
from vpjax.weights import catalog, google
from vpjax.weights.catalog import CatalogEntry
from vpjax.weights.description import Description, WeightsFile
from vpjax.weights.download import fetch
from vpjax.weights.hub import weights_in
from vpjax.weights.load import FORMATS, opened

SUFFIXES = (".npz", ".safetensors", ".pth", ".pt", ".tar", ".bin", ".msgpack", ".json")


def describe(where: str) -> Description | None:
    """Return what weights say about their backbone; None if they are of no known kind.

    Args:
        where: a path, an address, a name of the catalogue, or a folder or name of the Hugging Face
            hub.

    Raises:
        UserError: if the file is missing or damaged, or its configuration has something that vpjax
            does not have.
    """
    entry = catalog.find_entry(where)
    if entry is not None:
        return of_entry(entry)
    path = fetch(weights_in(where))
    return _describe(where, path, path.stat().st_mtime_ns)


def of_entry(entry: CatalogEntry) -> Description | None:
    """Return the description of a catalogue entry; None for a file that is no backbone's."""
    if not entry.backbone:
        return None
    options = ({"variant": entry.variant} if entry.variant else {}) | dict(entry.options)
    return Description(
        entry.description,
        entry.backbone,
        options,
        preset=PRESETS[entry.preset],
        resample="align_corners",  # the rule of VPT, whose files these are
    )


@functools.lru_cache(maxsize=8)
def _describe(where: str, path: Path, modified_ns: int) -> Description | None:
    file: WeightsFile = opened(where, path)
    form = next((form for form in FORMATS if form.recognises(file.shapes)), None)
    found = _described(form, file) if form else None
    if (found is None or found.open) and (entry := catalog.find_by_digest(path)):
        return of_entry(entry)  # a renamed copy of a known file
    if found is not None and form is not google:
        # Their libraries train and tune without dropout; Google's program has a tenth.
        found = dataclasses.replace(found, options={"dropout": 0.0} | dict(found.options))
    return found


def _described(form: ModuleType, file: WeightsFile) -> Description | None:
    """Return what a module of FORMATS says of a file, whose configuration anybody may have written.

    Raises:
        UserError: if that is damaged.
    """
    try:
        return form.describe(file)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        if not (file.config or file.processor):
            raise  # there is none that could be damaged
        raise UserError(
            f"the configuration beside {file.path} (config.json, preprocessor_config.json or the "
            f"like) has a value that cannot be: {type(error).__name__}: {error}. Fetch it again, "
            "or give the file of weights in a folder without it."
        ) from error


def looks_like_weights(text: str) -> bool:
    """Return whether `text` is a name of the catalogue or the hub, a path or an address."""
    path = Path(text).expanduser()
    return text in catalog.CATALOG or "/" in text or path.exists() or path.suffix in SUFFIXES
