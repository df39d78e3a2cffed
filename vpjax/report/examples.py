"""What a run was trained on, for its page: a few images of each class, and counts.

    examples.png     a row for each class, training images, each in a square
    examples.json    the classes of the rows, and the images of every class by split

They are written when a run ends, as a page is written without opening the data again.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vpjax.core import forms
from vpjax.core.files import write_json
from vpjax.core.under import own_file
from vpjax.data.source import Source
from vpjax.report.blocks import Sheet
from vpjax.runs.experiment import Experiment

log = logging.getLogger(__name__)

PICTURE, FACTS = "examples.png", "examples.json"
CLASSES, COLUMNS = 24, 6  # classes at most, images of each
EDGE = 72  # pixels
GAP = 4
FORM = {
    "classes": [str],
    "rows": [int],
    "splits": {str: {"name": str, "images": int, "by_class": ([int], None)}},
}
READ = 200_000  # examples that may be read only for their labels


def write_examples(experiment: Experiment, folder: Path) -> None:
    """Write the files above to the folder of a run.

    Raises:
        UserError: for an image that cannot be read.
    """
    train = experiment.sources["train"]
    if not train.labels_known and len(train) > READ:
        return
    names = experiment.classes.names
    labels = train.labels()
    rows = [c for c in range(len(names)) if len(_of_class(labels, c))][:CLASSES]
    squares = {c: [_square(train, i) for i in _spread(_of_class(labels, c))] for c in rows}
    _sheet(list(squares.values())).save(folder / PICTURE)
    counts = {}
    for split, source in experiment.sources.items():
        known = source.labels_known
        counts[split] = {
            "name": source.name,
            "images": len(source),
            "by_class": source.counts().tolist() if known else None,
        }
    facts = {"classes": list(names), "rows": rows, "columns": COLUMNS, "splits": counts}
    write_json(folder / FACTS, facts)


def read_facts(folder: Path) -> dict[str, Any] | None:
    """Return the content of examples.json; None if the folder has none."""
    if own_file(folder, FACTS) is None:
        return None
    try:
        found = forms.read(folder / FACTS, FORM, "The page is written without it.")
        _check(found)
    except forms.Damaged as error:
        log.warning("warning   %s", error)
        return None
    return found


def _check(found: dict[str, Any]) -> None:
    """Check that rows and counts are of the classes."""
    count, splits = len(found["classes"]), found["splits"].values()
    good = all(0 <= row < count for row in found["rows"]) and "train" in found["splits"]
    if not good or any(len(s["by_class"] or found["classes"]) != count for s in splits):
        raise forms.Damaged(f"{FACTS} is damaged: its rows and counts are not those of its classes")


def sheet(folder: Path) -> Sheet | None:
    """Return the contact sheet of a run's folder; None if it has none."""
    facts = read_facts(folder)
    if facts is None or not facts["rows"] or not own_file(folder, PICTURE):
        return None
    counts = facts["splits"]["train"]["by_class"]
    return Sheet(
        folder / PICTURE,
        [facts["classes"][c] + (f" ({counts[c]:,})" if counts else "") for c in facts["rows"]],
    )


def _of_class(labels: np.ndarray, c: int) -> np.ndarray:
    """Return the positions of the images of a class, of n labels or of n C zeros and ones."""
    return np.flatnonzero(labels == c if labels.ndim == 1 else labels[:, c])


def _spread(positions: np.ndarray) -> list[int]:
    """Return a few positions, spread evenly: neighbours are often alike."""
    count = min(COLUMNS, len(positions))
    return [
        int(positions[i]) for i in np.linspace(0, len(positions) - 1, count).round().astype(int)
    ]


def _square(source: Source, index: int) -> Image.Image:
    """Return an image, whole, in a square with transparent edges."""
    pixels = source[index]["image"]
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGBA")
    scale = EDGE / max(image.size)
    size = tuple(max(1, round(scale * side)) for side in image.size)
    how = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    out = Image.new("RGBA", (EDGE, EDGE))
    small = image.resize(size, how)
    out.paste(small, tuple((EDGE - side) // 2 for side in size))
    return out


def _sheet(rows: list[list[Image.Image]]) -> Image.Image:
    step = EDGE + GAP
    out = Image.new("RGBA", (COLUMNS * step, step * max(len(rows), 1)))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            out.paste(image, (x * step + GAP // 2, y * step + GAP // 2))
    return out
