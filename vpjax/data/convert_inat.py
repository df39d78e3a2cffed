"""Turns iNaturalist's JSON layout into a class folder, which any reader understands.

    <root>/torchvision_format/<version>/<class>/<category id>/<photo>    links; copies if links fail
    <root>/torchvision_format/metadata.json                              names and taxonomy by class

Photos of train and val lie together. A second run adds what is missing and changes nothing else.
Where 2021 has no categories.json it is written from the train JSON.
"""

import os
import shutil
from pathlib import Path

from vpjax.core.errors import UserError, unknown
from vpjax.core.files import write_json
from vpjax.core.under import plain_name
from vpjax.data import inat
from vpjax.data.inat_json import read

LEVELS = ("kingdom", "phylum", "class", "order", "family", "genus")
VERSIONS = tuple(inat.VERSIONS.values())


def convert_inat(root: Path, version: str, *, categories_only: bool = False) -> Path:
    """Write the class folder, metadata.json and, if it is missing, categories.json.

    Args:
        root: folder of the JSON files and photos, such as data/iNat2021.
        version: a year, such as "2021".
        categories_only: whether to write nothing but categories.json, anew.

    Returns:
        The class folder, or categories.json.

    Raises:
        UserError: without annotations or categories, or if two photos of a class have one name.
    """
    if version not in VERSIONS:
        raise unknown("version of iNaturalist", version, VERSIONS)
    if categories_only:
        return write_categories(root, version)
    if not (root / "categories.json").is_file():
        write_categories(root, version)
    categories = inat.categories(root, version)
    if nameless := [c["id"] for c in categories if "name" not in c]:
        raise UserError(
            f"{len(nameless)} categories of {root} have no name, the first has id {nameless[0]}. "
            "Class folders need names."
        )
    folders = {c["id"]: _folder(root, c) for c in categories}
    target = root / "torchvision_format" / version
    for folder in folders.values():
        (target / folder).mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        for file, category in inat.samples(root, version, split):
            if category not in folders:
                raise UserError(
                    f"{file} has category {category}, which categories.json lacks. Take both from "
                    "the same download."
                )
            link_photo(root / file, target / folders[category] / Path(file).name)
    metadata = {
        "categories": {"full": [c["name"] for c in categories]}
        | {level: [c.get(level, "") for c in categories] for level in LEVELS},
        "class_to_idx": {"full": list(range(len(categories)))},
    }
    write_json(target.parent / "metadata.json", metadata)
    return target


def _folder(root: Path, category: inat.Category) -> str:
    """Return the folder of a category, below the one that is written to."""
    where = f"the category {str(category['id']):.60} of {root}"
    names = category["name"].replace(" ", "_"), str(category["id"])
    return "/".join(plain_name(name, where) for name in names)


def link_photo(photo: Path, link: Path) -> None:
    """Link to a photo by a relative path, so that the whole may be moved; copy if links fail.

    Raises: UserError if another file is in its place.
    """
    if link.is_symlink() and not link.exists():
        link.unlink()  # what it pointed to has gone
    if link.exists():
        if os.path.samefile(link, photo) or link.read_bytes() == photo.read_bytes():
            return
        raise UserError(
            f"{link} exists and is not {photo}: two photos of a class have one name. Rename one, "
            "in the JSON file too."
        )
    try:
        link.symlink_to(os.path.relpath(photo, link.parent))
    except OSError:  # some file systems have no links
        shutil.copyfile(photo, link)


def write_categories(root: Path, version: str) -> Path:
    """Write categories.json from the train JSON.

    Raises: UserError if that holds no names, as in 2018.
    """
    path = root / "categories.json"
    annotations = read(inat.annotation_file(root, version, "train"))
    categories = annotations.get("categories") or []
    if not categories or inat.TAXONOMY[0] not in categories[0]:
        raise UserError(
            f"{path} does not exist, and the train JSON has no names to write it from. For 2018 "
            "it is part of the official download."
        )
    write_json(path, sorted(categories, key=lambda c: c["id"]))
    return path
