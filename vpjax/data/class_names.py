"""Names of classes as a person, or CLIP, would say them.

clean("001.Black_footed_Albatross")            "Black footed Albatross"
clean("n02085620-Chihuahua")                   "Chihuahua"
clean("AnnualCrop", "eurosat/rgb:2.0.0")       "Annual Crop"
is_id("17")                                    True: it says nothing of what is shown
named(classes, metadata, "names.txt")          metadata with the names of a file
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vpjax.core.errors import UserError
from vpjax.data.text import parse_json, read_text

# Numbers before a name: CUB's "001.", "012_"; ImageNet's ids of synsets before those of dogs.
BEFORE = re.compile(r"^(?:n\d{8}|\d+\.|0\d*(?=[ _-]))[ _-]*(?=[^\W\d_])")
SCENE = re.compile(r"^/?[a-z]/(?=\w)")  # SUN397: "/a/airport_terminal", "/b/bar/outdoor"
HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
HUMPED = ("eurosat", "ucf101")  # data sets that write words together, "AnnualCrop"
ID = re.compile(
    r"(?:[-+]?[\d.,]+|n\d{8}|(?:class|label|category|cat|id|species|folder)?[ _#-]*\d+)", re.I
)
FILES = 'a name a line in the order of the labels, lines "class, name", or JSON'


def clean(name: str, dataset: str = "") -> str:
    """Return a class's name without what data sets write around it.

    Args:
        name: as the data set has it.
        dataset: name of the data set, such as "cub:/data/CUB_200_2011[train]".
    """
    found = SCENE.sub("", name.strip())
    found = found.replace("/", " ") if found != name.strip() else found
    found = BEFORE.sub("", found)
    if dataset_of(dataset).startswith(HUMPED):
        found = HUMP.sub(" ", found)
    return " ".join(found.replace("_", " ").split()) or name


def dataset_of(name: str) -> str:
    """Return what a data set is called, in lower case: of a folder or file, its own name.

    Args:
        name: such as "eurosat/rgb:2.0.0[train]" or "zhou:/data/split_zhou_EuroSAT.json".
    """
    kind, colon, path = name.partition("[")[0].partition(":")
    if not colon or path[:1].isdigit():
        return kind.removeprefix("vtab/").lower()
    folder = Path(path).stem.lower()
    return kind if kind in ("cub", "nabirds", "gtsrb") else folder.removeprefix("split_zhou_")


def is_id(name: Any) -> bool:
    """Whether a class's name is a number or an id."""
    return not str(name).strip() or ID.fullmatch(str(name).strip()) is not None


def named(
    classes: Sequence[str], metadata: Sequence[Mapping[str, Any]], file: str
) -> Sequence[Mapping[str, Any]]:
    """Return the metadata of classes with the names of a file.

    Args:
        classes: as the data set calls them, in the order of the labels.
        metadata: what is known of each.
        file: path; "": nothing changes. It holds a name a line, in the order of the labels; or
            lines "class, name", with a comma, semicolon, tab or blank; or the same as JSON.

    Raises:
        UserError: for a file that cannot be read, or does not name every class.
    """
    if not file:
        return metadata
    path = Path(file).expanduser()
    names = _read(path, classes)
    return [{**facts, "name": name} for facts, name in zip(metadata, names, strict=True)]


def _read(path: Path, classes: Sequence[str]) -> list[str]:
    try:
        json_file = path.suffix.lower() == ".json"
        content = parse_json(path) if json_file else read_text(path).splitlines()
    except UserError as error:
        raise UserError(f"text.class_names cannot be read: {error} Expected {FILES}.") from error
    if isinstance(content, Mapping):
        return _in_order(path, {_key(k): v for k, v in content.items()}, classes)
    if not isinstance(content, list):
        raise UserError(f"text.class_names: {path} holds {content!r:.60}. Expected {FILES}.")
    lines = [str(line).strip() for line in content if str(line).strip()]
    lines = [line.replace("\n", " ").replace("\r", " ") for line in lines]  # of JSON
    for separator in "\t,; ":
        try:
            rows = list(csv.reader(lines, delimiter=separator, skipinitialspace=True))
        except csv.Error as error:
            raise UserError(f"text.class_names: {path}: {error}. Expected {FILES}.") from error
        pairs = {_key(row[0]): separator.join(row[1:]).strip() for row in rows if len(row) > 1}
        if pairs.keys() >= {_key(c) for c in classes}:
            return _in_order(path, pairs, classes)
    if len(lines) != len(classes):
        raise UserError(
            f"text.class_names: {path} has {len(lines)} lines, and there are {len(classes)} "
            f"classes ({', '.join(map(str, classes[:5]))} ...). Expected {FILES}."
        )
    return [_name(path, c, line) for c, line in zip(classes, lines, strict=True)]


def _key(name: Any) -> str:
    """Return a class's name as it is compared: "007" is "7"."""
    name = str(name).strip()
    return name.lstrip("0") or "0" if name.isdecimal() else name.casefold()


def _in_order(path, names, classes):
    if absent := [str(c) for c in classes if _key(c) not in names]:
        raise UserError(
            f"text.class_names: {path} has no name for {len(absent)} of {len(classes)} classes, "
            f"such as {absent[0]!r}. Expected {FILES}."
        )
    return [_name(path, c, names[_key(c)]) for c in classes]


def _name(path, key, value):
    name = clean(str(value))
    if is_id(name):
        raise UserError(
            f"text.class_names: {path} calls class {key!r} {name!r}, which is a number or an id, "
            "not a name. Write what its images show."
        )
    return name
