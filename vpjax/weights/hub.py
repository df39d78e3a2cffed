"""Folders of models as on the Hugging Face hub: config.json, weights, tokenizer files.

    /models/clip-vit-base-patch16            a folder
    openai/clip-vit-base-patch16             a name: the folder in the hub's own cache

Nothing is downloaded here.
"""

import os
import re
from pathlib import Path

from vpjax.core.errors import UserError

# Names of weights; the first that exists counts.
FILES = (
    "model.safetensors",
    "flax_model.msgpack",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def folder_of(where: str | os.PathLike) -> Path | None:
    """Return a model's folder: `where` itself, the folder of a file, or that of a hub name.

    None if `where` is neither a path that exists nor of the form of a name.
    Raises: UserError for a name that is not in the cache.
    """
    where = os.fspath(where)
    path = Path(where).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        return path.parent
    if not NAME.fullmatch(where) or path.suffix or path.parent.is_dir():
        return None
    found = cached(where)
    if found is None:
        raise UserError(
            f"there is no file or folder {where}, nor a model of this name in the cache of the "
            f"Hugging Face hub. On a machine with network run\n    hf download {where}\n"
            "or give a folder with its config.json, weights and tokenizer files."
        )
    return found


def cached(name: str) -> Path | None:
    """Return the folder of a model in the hub's cache on this machine; None if there is none."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def weights_in(where: str) -> str:
    """Return the file of weights in the folder that `where` is or name, else `where`."""
    folder = None if Path(where).expanduser().is_file() else folder_of(where)
    if folder is None:
        return where
    return next((str(folder / f) for f in FILES if (folder / f).is_file()), str(folder))
