"""Folders of models as on the Hugging Face hub: configuration, weights, tokenizer files.

    /models/clip-vit-base-patch16            a folder
    openai/clip-vit-base-patch16             a name: the folder in the hub's own cache
    hf-hub:timm/vit_small_patch14_dinov2.lvd142m, hf://..., its page's address: the same
    ViT-B/16, ViT-L-14-336                   OpenAI's own names of its CLIPs

What the cache lacks is fetched with the hub's own client: the configuration, the tokenizer, one
file of weights. Its variables hold: HF_HUB_OFFLINE, HF_HOME, HF_TOKEN, HF_ENDPOINT.
"""

import functools
import logging
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vpjax.core import forms
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
# OpenAI's names of its CLIPs, in the ways people write them, in lower case.
CLIPS = {
    **{f"vit-b{c}{p}": f"openai/clip-vit-base-patch{p}" for c in "/-" for p in (16, 32)},
    **{f"vit-l{c}14": "openai/clip-vit-large-patch14" for c in "/-"},
    **{
        f"vit-l{c}14{end}": "openai/clip-vit-large-patch14-336"
        for c in "/-"
        for end in ("@336px", "@336", "-336px", "-336")
    },
}
NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
PREFIXES = re.compile(r"(hf[-_]hub:|hf://(models/)?|https?://(www\.)?(huggingface\.co|hf\.co)/)")
# One file of a model, behind one of these.
FILE = re.compile(rf"({NAME.pattern})/(?:(?:resolve|blob)/([^/]+)/)?(.+)")
OPEN_CLIP = "open_clip_config.json"
BESIDE = ("*.json", "*.txt", "*.txt.gz", "README.md")  # configuration, tokenizer, licence


def name_of(where: str) -> str:
    """Return the name on the hub that `where` is, in any way people write it; "" if it is none.

    "hf-hub:timm/x", "hf://timm/x", "https://huggingface.co/timm/x" and "timm/x" are "timm/x"; so is
    "timm/x@v2" with its revision; "ViT-B/16" is "openai/clip-vit-base-patch16".
    """
    if where.lower() in CLIPS:
        return CLIPS[where.lower()]
    short = PREFIXES.sub("", where, count=1).removesuffix("/").removesuffix("/tree/main")
    name = short.partition("@")[0]
    if not NAME.fullmatch(name) or name.lower().endswith(ENDINGS + OTHER_ENDINGS):
        return ""
    return short


def folder_of(where: str | os.PathLike) -> Path | None:
    """Return a model's folder: `where` itself, the folder of a file, or that of a hub name.

    None if `where` is neither a path that exists nor of the form of a name.
    Raises: UserError for a name that is not in the cache, and cannot be fetched.
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
    return found or fetched(name, where)


def cached(name: str) -> Path | None:
    """Return the folder of a model in the hub's cache on this machine; None if there is none.

    Where the cache is, HF_HUB_CACHE or HF_HOME say. `name` may end in "@" and a revision.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    name, _, revision = name.partition("@")
    try:
        # The pattern fits no file: a folder counts though some file of the model is not in it.
        found = huggingface_hub.snapshot_download(
            name, revision=revision or None, local_files_only=True, allow_patterns=["-"]
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return Path(found)


def fetched(name: str, where: str = "") -> Path:
    """Download a model's configuration, tokenizer and one file of weights; return its folder.

    Args:
        name: on the hub.
        where: what was asked for, where it is another name of the same.

    Raises: UserError, with the reason and what can be done.
    """
    import huggingface_hub

    repository, _, revision = name.partition("@")
    get = functools.partial(
        huggingface_hub.snapshot_download, repository, revision=revision or None
    )
    try:
        listed = get(dry_run=True, tqdm_class=functools.partial(tqdm, disable=True))
        sizes = {file.filename: file.file_size for file in listed}
        weights = _of_weights([file for file in sizes if "/" not in file], name)
        size = sum(sizes[file] for file in weights) / 1e6
        log.info("%s: fetching %s (%.0f MB) from the hub", name, ", ".join(weights[:2]), size)
        return Path(get(allow_patterns=[*BESIDE, *weights]))
    except UserError:
        raise
    except Exception as e:  # of the network too, whose classes the client does not name
        command = f"hf download {repository}" + (f" --revision {revision}" if revision else "")
        raise UserError(
            f"there is no file or folder {where or name}, and the model "
            f"{'of this name' if where in ('', name) else name} is not in the cache of the "
            f"Hugging Face hub and could not be fetched: {reason(e, repository)}\n"
            f"On a machine with network run\n    {command}\n"
            "or give a folder with its config.json, weights and tokenizer files."
        ) from e


def _of_weights(inside: list[str], name: str) -> list[str]:
    """Return which of a model's files are fetched: one file of weights, or an index and shards."""
    usual = [f for f in FILES if f in inside]
    others = sorted(f for f in inside if f.endswith(ENDINGS))
    if not usual and len(others) != 1:
        held = "".join(f"\n    hf://{name}/{f}" for f in others)
        raise UserError(
            f"{name} of the hub holds several files of weights. Give one of them:{held}"
            if others
            else f"{name} of the hub holds no weights, only: {', '.join(sorted(inside))}."
        )
    if not usual:
        return others
    stem = usual[0].partition(".")[0]
    shards = [f for f in others if _shard(f) and f.startswith(f"{stem}-")]
    return [usual[0], *(shards if usual[0].endswith(".index.json") else [])]


def _has_weights(folder: Path) -> bool:
    inside = {f.name for f in folder.iterdir()}
    if any(f.endswith(ENDINGS) and not _shard(f) for f in inside):
        return True
    indices = [f for f in FILES if f.endswith(".index.json") and f in inside]
    form = {"weight_map": {str: str}}
    lists = [forms.read(folder / f, form, "Fetch it again.") for f in indices]
    return any(set(found["weight_map"].values()) <= inside for found in lists)


def reason(error: Exception, repository: str) -> str:
    """Return why the hub's client could not do something, in words.

    Args:
        error: that it raised.
        repository: the name that was asked for.
    """
    from huggingface_hub import errors

    cause = error.__cause__ if isinstance(error, errors.DryRunError) and error.__cause__ else error
    if isinstance(cause, errors.GatedRepoError):
        page = f"https://huggingface.co/{repository}"
        return f"its owner asks for consent. Accept the terms at {page}, then run hf auth login."
    if isinstance(cause, errors.RepositoryNotFoundError):
        return "the hub has no such model, or only for its owner (hf auth login)."
    if isinstance(cause, errors.RevisionNotFoundError):
        return "the model has no such revision."
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set."
    network = isinstance(cause, OSError) or "Connect" in type(cause).__name__
    start = "no connection to the hub, " if network else ""
    return f"{start}{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}"


def weights_in(where: str) -> str:
    """Return the file of weights in the folder that `where` is or names, else `where`.

    A file of the hub is that in the cache, or its address.
    Raises: UserError if the folder has no weights, or several and none has a usual name, or if a
    model of the hub cannot be fetched.
    """
    where = split(where)[0]
    if PREFIXES.match(where) and not name_of(where):
        return _file_in(where)
    folder = None if Path(where).expanduser().is_file() else folder_of(where)
    if folder is None:
        return where
    name = name_of(where)
    if name and not _has_weights(folder):
        folder = fetched(
            name, where
        )  # somebody has read the configuration only, or has not finished
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
        raise UserError(f"{folder} is a folder without weights; it holds: {held}.")
    chosen = (usual or others)[0]
    if rest := [f for f in dict.fromkeys(usual + others) if f != chosen and not _shard(f)]:
        log.debug("%s: %s is read, not %s", where, chosen, ", ".join(rest))
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
    return forms.read(path, dict, "Fetch it again.")


def _shard(file: str) -> bool:
    return bool(re.search(r"-\d{5}-of-\d{5}\.", file))
