"""The files in a run's folder, and how to use them: a part of its page."""

import contextlib
import os
import shlex
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from vpjax.core.under import own_file
from vpjax.report.blocks import Grid, Heading, Listing, Rich, Text
from vpjax.report.run_folders import Run
from vpjax.runs.provenance import PROGRAMS

# What lies in a run's folder, in the order of the page; those that are there are listed.
FILES = {
    "result.json": "metrics, counts, digests, versions",
    "evaluation.json": "metrics by split, and calibration",
    "predictions.csv": "prediction for every image of the reported split",
    "per_class.csv": "accuracy of every class",
    "metrics.csv": "history: loss, accuracy, learning rate by step",
    "metrics.jsonl": "the same, a JSON value a line",
    "config.json": "every key of the config",
    "classes.json": "names of the classes",
    "nearest.npz": "features of training images, which `demo` searches; it may be deleted",
    "examples.json": "classes and images by split",
    "model.safetensors": "what was learnt, with classes and preprocessing; load_run takes it",
    "model_card.md": "the model card",
    "README.md": "the model card",
    "checkpoints": "the last and the best state, to go on training",
    "log.txt": "what was printed",
    "report.md": "this page as Markdown",
}


def usage(run: Run) -> list[NamedTuple]:
    """Return the section of files and commands; of an unfinished run the files alone."""
    out: list[NamedTuple] = [Heading("Files and how to use them")]
    if run.finished:
        out += [Text("Evaluate it again, classify photos, write it for other programs:")]
        out += [Listing("\n".join(commands(run))), Text("From Python:"), Listing(python(run))]
    return [*out, files(run.folder)]


def commands(run: Run) -> list[str]:
    """Return commands that use a run, as they are typed where it was trained."""
    made = run.result.get("command", "")
    starts = (" ".join(words) for words in PROGRAMS.values())
    program = next((start for start in starts if made.startswith(f"{start} ")), "python main.py")
    folder = shlex.quote(str(run.folder))
    verbs = ("eval", "predict", "demo", "export", "plot")
    more = ("", " photos/ --output predictions.csv", "", " model.safetensors", " --image 3")
    return [
        f"{program} {verb} --workdir {folder}{rest}" for verb, rest in zip(verbs, more, strict=True)
    ]


def python(run: Run) -> str:
    """Return a program that classifies photos by a run."""
    return "\n".join(
        (
            "import vpjax",
            "",
            f"run = vpjax.load_run({str(run.folder)!r})",
            "print(run.classes)",
            'found = run.predict(["photo.jpg"])',
            "print(found.class_names, found.probabilities.max(1))",
        )
    )


def files(folder: Path) -> Grid:
    """Return a table of the known files of a run that are there, each a link."""
    rows = [
        [Rich(name, href=quote(name) + "/" * (folder / name).is_dir()), _size(folder / name), text]
        for name, text in FILES.items()
        if own_file(folder, name)
    ]
    return Grid(["file", "size", "what it holds"], rows, "lrl")


def _size(path: Path) -> str:
    """Return the size of a file, or of all files in a folder."""
    inside, size = [path], 0
    if path.is_dir():
        inside = [Path(top, name) for top, _, names in os.walk(path) for name in names]
    for file in inside:
        with contextlib.suppress(FileNotFoundError):  # a run that goes on has just deleted it
            size += 0 if file.is_symlink() else file.stat().st_size
    return f"{size:,} bytes" if size < 2**20 else f"{size / 2**20:,.1f} MiB"
