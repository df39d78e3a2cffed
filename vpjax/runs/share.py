"""Runs shared: to a folder or the Hugging Face hub, with a card, and back from there.

Shared is what `vpjax.load_run` needs, what was measured, and pictures; no checkpoints, no images,
no frozen weights. The hub's own client does the transfer, and its variables hold: HF_TOKEN,
HF_ENDPOINT, HF_HUB_OFFLINE.
"""

import logging
import re
import shutil
import tempfile
from pathlib import Path

from vpjax.core.errors import UserError
from vpjax.core.files import atomic_folder, write_text
from vpjax.runs import model_file
from vpjax.runs.addresses import is_on_hub, run_folder
from vpjax.runs.card import card
from vpjax.runs.run import load_run
from vpjax.runs.workdir import read_result
from vpjax.weights import hub
from vpjax.weights.licence import CARD

log = logging.getLogger(__name__)

NEEDED = (model_file.FILE, "config.json", "classes.json")
MEASURED = ("result.json", "evaluation.json", "per_class.csv", "metrics.csv", "predictions.csv")
PICTURES = "*.png"


def push_run(folder: str | Path, target: str, *, licence: str = "", private: bool = False) -> str:
    """Share a run with its card; return where it is.

    Args:
        folder: of the run.
        target: a name of the hub ("mylab/birds", "hf://mylab/birds"), or a new folder.
        licence: of what was learnt, such as "cc-by-4.0", for the card; "": none is named.
        private: whether a new repository of the hub is for its owner only.

    Raises:
        UserError: if there is no run, the folder exists, or the hub cannot be reached or refuses.
    """
    folder = run_folder(folder)
    if not is_on_hub(target):
        with atomic_folder(Path(target).expanduser()) as new:
            stage(folder, new, str(target), licence)
        log.info("wrote %s: %s", target, ", ".join(sorted(p.name for p in Path(target).iterdir())))
        return str(target)
    name = hub.name_of(target).partition("@")[0]
    with tempfile.TemporaryDirectory(prefix="vpjax-") as staged:
        stage(folder, Path(staged), name, licence)
        files = sorted(p.name for p in Path(staged).iterdir())
        log.info("sending to %s of the hub: %s", name, ", ".join(files))
        return upload(Path(staged), name, private)


def pull_run(source: str | Path, folder: str | Path) -> Path:
    """Copy a shared run into a folder of this machine; return the folder.

    Args:
        source: a name of the hub, "@" and a revision behind it, or a folder.
        folder: a new one.

    Raises:
        UserError: if there is no such run, it is none of vpjax, or the folder exists.
    """
    text, folder = str(source), Path(folder).expanduser()
    there = run_folder(source) if not is_on_hub(text) or Path(text).exists() else download(text)
    file = model_file.find(there)
    if file is None:
        raise UserError(f"{source} has no {model_file.FILE}: it is no shared run of vpjax.")
    model_file.read_facts(file)
    with atomic_folder(folder) as new:
        for path in shared_files(there):
            shutil.copyfile(path, new / path.name)
    log.info("pulled %s to %s", source, folder)
    return folder


def stage(folder: Path, new: Path, own: str, licence: str) -> None:
    """Write the files of a shared run into an empty folder.

    Args:
        folder: of the run.
        new: the empty folder.
        own: what the run will be loaded by.
        licence: see `push_run`.

    Raises:
        UserError: if there is no run.
    """
    if licence and not re.fullmatch(r"[\w.+-]+", licence):
        raise UserError(f"the licence is {licence!r}; give its short name, such as cc-by-4.0")
    for path in shared_files(folder):
        shutil.copyfile(path, new / path.name)
    if model_file.find(folder) is None:  # interrupted, or of an older version
        load_run(folder).save(new / model_file.FILE)
    facts = model_file.read_facts(new / model_file.FILE)
    text = card(facts, read_result(folder), Path(own).name, own)
    if licence:
        text = text.replace("---\n", f"---\nlicense: {licence}\n", 1)
    write_text(new / CARD, text)


def shared_files(folder: Path) -> list[Path]:
    """Return the files of a run's folder that are shared; none that a link brings from outside."""
    named = [folder / name for name in (*NEEDED, *MEASURED, CARD)]
    found = [p for p in named if p.is_file()] + sorted(folder.glob(PICTURES))
    # The hub's cache keeps the files of a snapshot elsewhere, and links to them.
    root = folder.resolve().parents[1] if folder.resolve().parent.name == "snapshots" else folder
    return [p for p in found if p.resolve().is_relative_to(root.resolve())]


def upload(folder: Path, name: str, private: bool) -> str:
    """Send a folder to a repository of the hub, made if it is not there; return its address.

    Raises: UserError, with the reason and what can be done.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi()
    try:
        address = str(api.create_repo(name, private=private, exist_ok=True))
        api.upload_folder(
            repo_id=name, folder_path=folder, commit_message="Share a run of vpjax", token=None
        )
    except Exception as e:  # of the network too, whose classes the client does not name
        raise UserError(
            f"{name} could not be sent to the hub: {hub.reason(e, name)} Log in with hf auth login "
            "(a token that may write), or give a folder as the target and upload that."
        ) from e
    return address


def download(name: str) -> Path:
    """Return the folder in the hub's cache with the files of a shared run, fetched if need be.

    Raises: UserError, with the reason.
    """
    import huggingface_hub

    repository, _, revision = hub.name_of(name).partition("@")
    wanted = [*NEEDED, *MEASURED, CARD, PICTURES]
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision or None, allow_patterns=wanted
            )
        )
    except Exception as e:  # of the network too
        raise UserError(
            f"{name} could not be fetched from the hub: {hub.reason(e, repository)}"
        ) from e
