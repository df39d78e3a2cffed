"""A small run on digits in a folder of files, for the tests of `demo`."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

import vpjax
from tests.helpers.runs import config
from vpjax.data import open_source
from vpjax.runs.fit import fit

EACH = {"train": 12, "test": 4}  # files of a class


def tried(top: Path, label: str = "vpt_deep", **sections: dict) -> SimpleNamespace:
    """Train a few steps on PNG files; return the run, its folder and that of the photos."""
    source = open_source("digits/high", "train")
    images = np.stack([e["image"][..., 0] for e in source.__getitems__(range(300))])
    labels = source.labels()[:300]
    for k, name in enumerate(source.classes):
        mine, first = images[labels == k], 0
        for split, count in EACH.items():
            folder = top / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(first, first + count):
                Image.fromarray(mine[i]).save(folder / f"{i}.png")
            first += count
    data = {"name": f"folder:{top / 'photos'}", "train": "train", "val": "", "test": "test"}
    chosen = config(label, data=data, **sections)
    fit(chosen, top / "run")
    run = vpjax.load_run(top / "run")
    return SimpleNamespace(run=run, folder=top / "run", photos=top / "photos")
