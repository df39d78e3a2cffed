"""iNaturalist's JSON files, checked: annotations and categories as the rest may rely on them.

    read(path)          {"images": [{"id", "file_name"}], "annotations": [{"image_id",
                        "category_id"}], "categories": [...]}
    read(path, list)    [{"id": 3, "name": "Danaus plexippus", "genus": "Danaus", ...}, ...]

A message names the file and the place within: "train2021.json, images[17]: no 'file_name'".
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpjax.core.errors import UserError
from vpjax.data.text import parse_json

KINDS = {int: "a whole number", str: "text", str | None: "text"}
NEEDED = {
    "images": {"id": int, "file_name": str},
    "annotations": {"image_id": int, "category_id": int},
}
CATEGORY = {"id": int}
NAMES = ("name", "common_name", "genus", "family", "order")  # of a category, where it has them


def read(path: Path, kind: type = dict) -> Any:
    """Read a JSON file: annotations (`dict`) or categories (`list`).

    Raises: UserError if it is broken or holds something else, with the place within.
    """
    content = parse_json(path)
    good = kind is list or (isinstance(content, dict) and {"images", "annotations"} <= set(content))
    if not (isinstance(content, kind) and good):
        expected = "a list of categories" if kind is list else "'images' and 'annotations'"
        found = ", ".join(map(repr, list(content)[:5])) if isinstance(content, dict) else "a list"
        raise UserError(
            f"{path} does not hold {expected}; it is not iNaturalist's file. It holds {found}."
        )
    if kind is list:
        check_categories(str(path), content)
        return content
    for part, needed in NEEDED.items():
        _check_list(f"{path}, {part}", content[part], needed)
    if content.get("categories") is not None:
        check_categories(f"{path}, categories", content["categories"])
    return content


def check_categories(where: str, categories: Any) -> None:
    """Check that categories have ids, and names that are text.

    Raises: UserError with the place of the first that is wrong.
    """
    _check_list(where, categories, CATEGORY)
    for i, category in enumerate(categories):
        for key in NAMES:
            if key in category and not isinstance(category[key], str):
                raise UserError(
                    f"{where}[{i}]: {key!r} is {category[key]!r}, expected text. Give the name of "
                    f"category {category['id']}, or take {key!r} out of all categories."
                )


def _check_list(where: str, items: Any, needed: Mapping[str, type]) -> None:
    if not isinstance(items, list):
        raise UserError(f"{where}: expected a list, found {type(items).__name__}.")
    for i, item in enumerate(items):
        if not isinstance(item, dict):
            raise UserError(
                f"{where}[{i}]: expected an object with {' and '.join(map(repr, needed))}, found "
                f"{item!r:.80}."
            )
        for key, kind in needed.items():
            value = item.get(key)
            if not isinstance(value, kind) or isinstance(value, bool):
                found = f"no {key!r}" if key not in item else f"{key!r} is {value!r:.80}"
                raise UserError(
                    f"{where}[{i}]: {found}; expected {KINDS[kind]}. Mend the entry, or fetch the "
                    "file again."
                )


def labels_by_image(path: Path, content: Mapping[str, Any]) -> dict[int, int]:
    """Return the category of every annotated image.

    Raises: UserError for an image with two categories, an id without a category (-1), or an image
        id that occurs twice.
    """
    of: dict[int, int] = {}
    for i, annotation in enumerate(content["annotations"]):
        image, category = annotation["image_id"], annotation["category_id"]
        if category < 0:
            raise UserError(
                f"{path}, annotations[{i}]: category_id is {category}, which marks an image "
                "without a label. Take it out of the annotations."
            )
        if of.setdefault(image, category) != category:
            raise UserError(
                f"{path}, annotations[{i}]: image {image} has category {category}, and "
                f"{of[image]} before. Keep the annotation that is right."
            )
    seen: dict[int, str] = {}
    for i, image in enumerate(content["images"]):
        if seen.setdefault(image["id"], image["file_name"]) != image["file_name"]:
            raise UserError(
                f"{path}, images[{i}]: id {image['id']} is that of {seen[image['id']]} already."
            )
    return of
