"""Folders of models as on the Hugging Face hub: configuration, weights, tokenizer files.

    /models/clip-vit-base-patch16            a folder
    openai/clip-vit-base-patch16             a name: the folder in the hub's own cache
    hf-hub:timm/vit_small_patch14_dinov2.lvd142m, hf://..., its page's address: the same

Nothing is downloaded here.
"""

import json
import logging
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from vpjax.core.errors import UserError
from vpjax.weights.anchor import split

log = logging.getLogger(__name__)

# Names of weights; the first that exists counts.
FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "flax_model.msgpack",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)
# How files of weights end: what looks like the name of a model and ends so is a path.
ENDINGS = (".npz", ".safetensors", ".pth", ".pt", ".tar", ".bin", ".msgpack", ".ckpt")
OTHER_ENDINGS = (".json", ".zip", ".onnx", ".npy", ".h5", ".txt", ".yaml", ".py")
NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
PREFIXES = re.compile(r"(hf[-_]hub:|hf://(models/)?|https?://(www\.)?(huggingface\.co|hf\.co)/)")
# One file of a model, behind one of these.
FILE = re.compile(rf"({NAME.pattern})/(?:(?:resolve|blob)/([^/]+)/)?(.+)")
OPEN_CLIP = "open_clip_config.json"


def name_of(where: str) -> str:
    """Return the name on the hub that `where` is, in any way people write it; "" if it is none.

    "hf-hub:timm/x", "hf://timm/x", "https://huggingface.co/timm/x" and "timm/x" are "timm/x"; so is
    "timm/x@v2" with its revision.
    """
    short = PREFIXES.sub("", where, count=1).removesuffix("/").removesuffix("/tree/main")
    name = short.partition("@")[0]
    if not NAME.fullmatch(name) or name.lower().endswith(ENDINGS + OTHER_ENDINGS):
        return ""
    return short


def folder_of(where: str | os.PathLike) -> Path | None:
    """Return a model's folder: `where` itself, the folder of a file, or that of a hub name.

    None if `where` is neither a path that exists nor of the form of a name.
    Raises: UserError for a name that is not in the cache.
    """
    where = split(os.fspath(where))[0]
    path = Path(where).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        return path.parent
    name = name_of(where)
    if not name:  # a bare name of timm
        timms = "." in where and name_of(f"timm/{where}")
        return cached(timms) if timms else None
    found = cached(name)
    if found is None and name == where and path.parent.is_dir():
        return None  # more likely a path with a mistake in it
    if found is None:
        repository, _, revision = name.partition("@")
        command = f"hf download {repository}" + (f" --revision {revision}" if revision else "")
        raise UserError(
            f"there is no file or folder {where}, nor a model of this name in the cache of the "
            f"Hugging Face hub. On a machine with network run\n    {command}\n"
            "or give a folder with its config.json, weights and tokenizer files."
        )
    return found


def cached(name: str) -> Path | None:
    """Return the folder of a model in the hub's cache on this machine; None if there is none.

    Where the cache is, HF_HUB_CACHE or HF_HOME say. `name` may end in "@" and a revision.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    name, _, revision = name.partition("@")
    try:
        found = huggingface_hub.snapshot_download(
            name, revision=revision or None, local_files_only=True
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return Path(found)


def weights_in(where: str) -> str:
    """Return the file of weights in the folder that `where` is or names, else `where`.

    A file of the hub is that in the cache, or its address.
    Raises: UserError if the folder has no weights, or several and none has a usual name.
    """
    where = split(where)[0]
    if PREFIXES.match(where) and not name_of(where):
        return _file_in(where)
    folder = None if Path(where).expanduser().is_file() else folder_of(where)
    if folder is None:
        return where
    inside = sorted(f.name for f in folder.iterdir() if f.is_file())
    usual = [f for f in FILES if f in inside]
    others = [f for f in inside if f.endswith(ENDINGS)]
    if not usual and len(others) > 1:
        raise UserError(
            f"{folder} holds several files of weights. Give one of them:\n    "
            + "\n    ".join(str(folder / f) for f in others)
        )
    if not usual and not others:
        held = ", ".join(inside) or "nothing"
        found = f"{folder} is a folder without weights; it holds: {held}."
        name = name_of(where).partition("@")[0]
        raise UserError(found + (f" Fetch the rest with\n    hf download {name}" if name else ""))
    chosen = (usual or others)[0]
    if rest := [f for f in dict.fromkeys(usual + others) if f != chosen and not _shard(f)]:
        log.info("%s: %s is read, not %s", where, chosen, ", ".join(rest))
    return str(folder / chosen)


def _file_in(where: str) -> str:
    m = FILE.fullmatch(PREFIXES.sub("", where, count=1))
    if m is None:
        return where
    name, revision, file = m.groups()
    folder = cached(f"{name}@{revision}" if revision else name)
    if folder and (folder / file).is_file():
        return str(folder / file)
    return f"https://huggingface.co/{name}/resolve/{revision or 'main'}/{file}"


def configuration(
    path: Path, names: Collection[str] = ()
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return what lies beside a file of weights: whose configuration, itself, the preprocessing.

    Args:
        path: the file of weights.
        names: of its arrays. They decide where both OpenCLIP's configuration and another lie there.

    Returns:
        "transformers", "timm", "open_clip" or ""; the configuration; preprocessor_config.json. {}
        for what is not there.

    Raises:
        UserError: if one of them is damaged.
    """
    folder = path.parent
    config, clip = _json(folder / "config.json"), _json(folder / OPEN_CLIP)
    of_clip = path.name.startswith("open_clip") or any(n.startswith("visual.") for n in names)
    if clip and (of_clip or not ("model_type" in config or "architecture" in config)):
        return "open_clip", clip, {}
    if "architecture" in config:
        return "timm", config, {}
    if "model_type" in config:
        return "transformers", config, _processor(folder)
    return "", {}, _processor(folder)


def _processor(folder: Path) -> dict[str, Any]:
    # Newer versions of transformers write all processors of a model into one file.
    own = _json(folder / "preprocessor_config.json")
    return own or _json(folder / "processor_config.json").get("image_processor") or {}


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path} is damaged: {e}. Fetch it again.") from e
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: it holds a {type(found).__name__}, not an object.")
    return found


def _shard(file: str) -> bool:
    return bool(re.search(r"-\d{5}-of-\d{5}\.", file))
