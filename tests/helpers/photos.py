"""Photos as iNaturalist lays them out, told apart by colour, and a tiny CLIP beside them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from tests.helpers import clip as files

# Name, common name, genus, family, colour of its photos, photos in training.
SPECIES = (
    ("Danaus plexippus", "Monarch", "Danaus", "Nymphalidae", (230, 120, 20), 20),
    ("Danaus gilippus", "Queen", "Danaus", "Nymphalidae", (150, 60, 20), 20),
    ("Aglais io", "Peacock", "Aglais", "Nymphalidae", (180, 20, 60), 6),
    ("Aglais urticae", "Small Tortoiseshell", "Aglais", "Nymphalidae", (240, 200, 60), 6),
    ("Pieris rapae", "Cabbage White", "Pieris", "Pieridae", (235, 240, 235), 6),
    ("Pieris napi", "Green-veined White", "Pieris", "Pieridae", (170, 220, 140), 6),
    ("Morpho menelaus", "Blue Morpho", "Morpho", "Nymphalidae", (20, 60, 230), 6),
    ("Morpho peleides", "Peleides", "Morpho", "Nymphalidae", (40, 180, 220), 6),
)
VAL = 4  # photos of a species


def category(i: int) -> dict:
    name, common, genus, family, *_ = SPECIES[i]
    taxa = {"kingdom": "Animalia", "phylum": "Arthropoda", "class": "Insecta"}
    taxa |= {"order": "Lepidoptera", "family": family, "genus": genus}
    return {"id": 10 + 3 * i, "name": name, "common_name": common, "image_dir_name": f"{i}"} | taxa


def photo(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = np.array(colour) + rng.normal(0, 25, (24, 30, 3)) + rng.normal(0, 8, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, "JPEG", quality=95)


def write_data(root: Path) -> Path:
    number = 0
    for split in ("train", "val"):
        images, annotations = [], []
        for i, (*_, colour, count) in enumerate(SPECIES):
            for shot in range(count if split == "train" else VAL):
                name = f"{split}/{i:05d}_{SPECIES[i][0].replace(' ', '_')}/{shot}.jpg"
                photo(root / "2021" / name, colour, number)
                images.append({"id": number, "file_name": name})
                annotations.append({"image_id": number, "category_id": category(i)["id"]})
                number += 1
        known = [category(i) for i in range(len(SPECIES))]
        content = {"images": images, "annotations": annotations, "categories": known}
        (root / f"{split}2021.json").write_text(json.dumps(content))
    return root


def write_clip(folder: Path) -> Path:
    """A random CLIP whose vocabulary is that of the small tokenizer, numbered without gaps."""
    merges, vocab = files.words()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "WORDS", len(vocab))
        patch.setattr(files, "CONTEXT", 77)
        arrays, described = files.hub(), files.config()
    folder.mkdir()
    save_file({n: np.ascontiguousarray(a) for n, a in arrays.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(described))
    words = {word: i for i, word in enumerate(sorted(vocab, key=vocab.get))}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return folder


def write_folders(root: Path, train: int = 8, val: int = 5, test: int = 6) -> Path:
    """The same species as a folder for each split and class; so many photos a class."""
    number = 0
    for split, count in (("train", train), ("val", val), ("test", test)):
        for name, *_, colour, _ in SPECIES:
            for shot in range(count):
                photo(root / split / name / f"{shot}.jpg", colour, number)
                number += 1
    return root
