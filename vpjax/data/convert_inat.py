"""Turns iNaturalist's JSON layout into a class folder, which any reader understands.

    python -m vpjax.data.convert_inat --root data/iNat2021 --version 2021

    <root>/torchvision_format/<version>/<class>/<category id>/<photo>    links; copies if links fail
    <root>/torchvision_format/metadata.json                              names and taxonomy by class

Photos of train and val lie together. A second run adds what is missing and changes nothing else.
Where 2021 has no categories.json it is written from the train JSON; `--categories` does only that.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from vpjax.core.errors import UserError
from vpjax.data import inat

LEVELS = ("kingdom", "phylum", "class", "order", "family", "genus")


def convert(root: Path, version: str) -> Path:
    """Writes the class folder and metadata.json; returns the class folder.

    Raises: UserError without categories, or if two photos of a class have one name.
    """
    if not (root / "categories.json").is_file():
        write_categories(root, version)
    known = inat.categories(root, version)
    folders = {c["id"]: f"{c['name'].replace(' ', '_')}/{c['id']}" for c in known}
    target = root / "torchvision_format" / version
    for folder in folders.values():
        (target / folder).mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        for file, category in inat.samples(root, version, split):
            if category not in folders:
                raise UserError(f"{file} has category {category}, which categories.json has not")
            place(root / file, target / folders[category] / Path(file).name)
    metadata = {
        "categories": {"full": [c["name"] for c in known]}
        | {level: [c.get(level, "") for c in known] for level in LEVELS},
        "class_to_idx": {"full": list(range(len(known)))},
    }
    write(target.parent / "metadata.json", metadata)
    return target


def place(photo: Path, link: Path) -> None:
    """Links to a photo, relatively, so that the whole may be moved; copies where links fail.

    Raises: UserError if another file is in its place.
    """
    if link.is_symlink() and not link.exists():
        link.unlink()  # what it pointed to has gone
    if link.exists():
        if os.path.samefile(link, photo) or link.read_bytes() == photo.read_bytes():
            return
        raise UserError(f"{link} exists and is not {photo}: two photos of a class have one name.")
    try:
        link.symlink_to(os.path.relpath(photo, link.parent))
    except OSError:  # some file systems have no links
        shutil.copyfile(photo, link)


def write_categories(root: Path, version: str) -> Path:
    """Writes categories.json from the train JSON.

    Raises: UserError if that holds no names, as in 2018.
    """
    path = root / "categories.json"
    known = inat.read(inat.annotation_file(root, version, "train")).get("categories", [])
    if not known or inat.TAXONOMY[0] not in known[0]:
        raise UserError(
            f"{path} does not exist, and the train JSON has no names to write it from. For 2018 "
            "it is part of the official download."
        )
    write(path, sorted(known, key=lambda c: c["id"]))
    return path


def write(path: Path, content: object) -> None:
    """Writes JSON at once: a run that is killed leaves no half of a file."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    part.replace(path)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m vpjax.data.convert_inat", description=__doc__)
    parser.add_argument(
        "--root", type=Path, default=Path("data/iNat2021"), help="JSON files and photos"
    )
    parser.add_argument("--version", choices=("2018", "2021"), default="2021")
    parser.add_argument("--categories", action="store_true", help="write categories.json alone")
    flags = parser.parse_args(arguments)
    try:
        print((write_categories if flags.categories else convert)(flags.root, flags.version))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
