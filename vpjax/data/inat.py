"""iNaturalist 2017, 2018, 2019 and 2021: COCO-style annotations beside folders of photos.

    open_json("inat2021", "train[:10%]", "data/iNat2021")

    <root>/categories.json  train2021.json  val2021.json  2021/train/<folder>/<photo>.jpg  2021/val
    <root>/categories.json  train2018.json  val2018.json  2018/<supercategory>/<id>/<photo>.jpg

A label is the rank of its category's id; order is that of `images`. Photos are looked for in every
layout that downloads and common readers leave (see `candidates`). Van Horn et al., arXiv 1707.06642
and 2103.16483. TFDS's form of the data gets its taxonomy from the same files.
"""

import functools
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpjax.core.errors import UserError, unknown
from vpjax.core.under import below
from vpjax.data import tfds
from vpjax.data.files import PHOTO, Entry, File, Files, Finder
from vpjax.data.inat_json import labels_by_image, read
from vpjax.data.records import select_split
from vpjax.data.source import Source
from vpjax.data.text import clean, unique

log = logging.getLogger(__name__)

VERSIONS = {f"inat{year}": year for year in ("2017", "2018", "2019", "2021")}
TFDS = {"i_naturalist2018": "2018", "i_naturalist2021": "2021"}
SPLITS = {"train": ("train",), "val": ("val",), "mini": ("mini", "train_mini")}
PREFIXES = ("train", "val", "train_mini", "train_val_images")
PREFIXES += ("train_val2017", "train_val2018", "train_val2019")
TAXONOMY = ("genus", "family", "order")

Category = Mapping[str, Any]


def open_json(name: str, split: str, data_dir: Any) -> Source:
    """Open a split of iNaturalist from its JSON files.

    Photos that are listed but missing are left out, with one warning that counts them.

    Args:
        name: a key of `VERSIONS`, such as "inat2021".
        split: split string of train, val and mini (2021).
        data_dir: folder of the JSON files and photos.

    Raises:
        UserError: for a missing or broken annotation file, unknown categories, or no photos.
    """
    version = VERSIONS[name]
    if not data_dir:
        raise UserError(
            f"{name} needs the folder that holds its JSON files and photos: give it with "
            f"--config.data.dir, such as data/iNat{version}."
        )
    root = Path(data_dir).expanduser()
    known = categories(root, version)
    ids = {c["id"]: i for i, c in enumerate(known)}

    def load(part: str) -> list[File]:
        if part not in SPLITS:
            raise unknown(f"split of {name}", part, SPLITS)
        found = samples(root, version, part)
        for file, category in found:
            if category not in ids:
                raise UserError(
                    f"{name}[{part}]: {file} has category {category}, which is not among the "
                    f"{len(ids)} categories of {root}. Files of different data sets are mixed."
                )
        return [(file, ids[category]) for file, category in found]

    files = Files(root, select_split(split, load))
    facts = [describe(c) for c in known]
    classes = [str(f.get("name", f["id"])) for f in facts]
    return Source(f"{name}[{split}]", classes, files, PHOTO, metadata=facts)


def samples(root: Path, version: str, split: str) -> list[tuple[str, int]]:
    """Return (file relative to `root`, category id) of every photo on the disk, in order.

    Raises: UserError if no listed photo is on the disk, or none has a category.
    """
    path = annotation_file(root, version, split)
    content = read(path)
    of = labels_by_image(path, content)
    entries = [
        Entry(_file_of(path, root, i, image), of[image["id"]], f"images[{i}]")
        for i, image in enumerate(content["images"])
        if image["id"] in of
    ]
    listed = [(entry.file, int(entry.key)) for entry in unique(path.name, entries)]
    if not listed:
        raise UserError(f"{path} has no image with an annotation, so there are no labels in it.")
    if bare := len(content["images"]) - len(entries):
        log.warning("%d images in %s have no annotation and are left out", bare, path)
    on_disk, out, lost = Finder(root), [], []
    base = image_folder(root, version)
    for name, category in listed:
        file = next((c for c in candidates(name, base) if c in on_disk), None)
        if file is None:
            lost.append(name)
        else:
            out.append((file, category))
    if not out:
        tried = ", ".join(str(root / c) for c in candidates(lost[0], base))
        raise UserError(
            f"none of the {len(lost)} images in {path} exists. The first was looked for as "
            f"{tried}. Unpack the images below {root}."
        )
    if lost:
        log.warning(
            "%d of %d images in %s are missing and left out; the first is %s",
            len(lost),
            len(listed),
            path,
            lost[0],
        )
    return out


def _file_of(path, root, index, image):
    """Return the name of a photo, which may not lead out of the folder."""
    name = clean(image["file_name"])
    below(root, name, f"{path}, images[{index}]")
    return name


def image_folder(root: Path, version: str) -> str:
    """Return the folder of photos, relative to `root`: "2021/", "images/" or "" for `root`."""
    return next((f"{f}/" for f in (version, "images") if (root / f).is_dir()), "")


def candidates(name: str, base: str) -> list[str]:
    """Return the paths, relative to the root, where a photo may lie, the likeliest first.

    A prefix such as "train/" or "train_val2018/" may have been lost in unpacking, and photos of the
    mini set are also among those of the whole.

    Args:
        name: the photo's name in the annotations.
        base: the folder of photos, see `image_folder`.
    """
    prefix, _, rest = name.partition("/")
    if prefix not in PREFIXES or not rest:
        return [base + name, name]
    out = [base + name, base + rest, name, rest]
    if prefix == "train_mini":
        out += [f"{base}train/{rest}", f"train/{rest}"]
    return out


def annotation_file(root: Path, version: str, split: str) -> Path:
    """Return the JSON file of a split.

    Raises: UserError, with the names that were tried.
    """
    names = [f"{s}{v}.json" for s in SPLITS[split] for v in (version, f"_{version}", "")]
    for name in names:
        if (root / name).is_file():
            return root / name
    raise UserError(f"{root} has no annotations of {split!r}; expected {' or '.join(names)}.")


def categories(root: Path, version: str) -> list[Category]:
    """Return the categories, sorted by id, from categories.json or else from the train JSON.

    The train JSON of 2021 holds them; that of 2018 holds codes for names and no taxonomy. Where it
    holds none, the categories are the ids that occur in its annotations.
    """
    path = root / "categories.json"
    if path.is_file():
        found = read(path, list)
    else:
        train = annotation_file(root, version, "train")
        found = _of_train(train, version, train.stat().st_mtime_ns)
    if duplicates := len(found) - len({c["id"] for c in found}):
        raise UserError(f"{path} has {duplicates} categories whose id occurred before.")
    return sorted(found, key=lambda c: c["id"])


@functools.lru_cache(maxsize=2)
def _of_train(path: Path, version: str, changed: int):
    """The whole file is hundreds of MB, and every split asks for it."""
    root, content = path.parent, read(path)
    occur = ({"id": i} for i in sorted({a["category_id"] for a in content["annotations"]}))
    found = tuple(content.get("categories") or occur)
    if not found:
        raise UserError(f"{path} has neither categories nor annotations, so there are no classes.")
    if TAXONOMY[0] in found[0]:
        log.info(
            "%s has no categories.json: categories are read from %s. To be quicker: python main.py "
            "convert-inat --root %s --version %s --categories",
            *(root, path.name, root, version),
        )
    elif " " not in found[0].get("name", ""):
        log.warning(
            "%s has no categories.json, so classes have neither names nor taxonomy. It is part of "
            "the official download of %s.",
            *(root, version),
        )
    return found


def describe(category: Category) -> dict[str, Any]:
    """Return the facts about a class: its category as stored, and the taxonomy in lower case.

    `species` and `scientific_name` are both the name. A category without a genus has one if its
    name is a binomial, as in 2017; other names, as in 2018 and 2019, are codes, and not used.
    """
    if TAXONOMY[0] not in category or "name" not in category:
        name = category.get("name", "")
        return {**category, **from_name(name)} if " " in name.strip() else {"id": category["id"]}
    name = category["name"].lower()
    lower = {k: category[k].lower() for k in TAXONOMY if k in category}
    return {**category, **lower, "species": name, "scientific_name": name}


def from_name(label: str) -> dict[str, Any]:
    """Return the facts that follow from a binomial, "Danaus plexippus" or "danaus_plexippus"."""
    name = with_blanks(label)
    lower = name.lower()
    return {"name": name, "species": lower, "scientific_name": lower, "genus": lower.split()[0]}


def with_blanks(name: str) -> str:
    """Return a name with single blanks instead of underscores."""
    return " ".join(re.split(r"[\s_]+", name.strip()))


def open_tfds(folder: Path, split: str) -> Source:
    """Open a prepared i_naturalist2018 or 2021, with the taxonomy of JSON files near `folder`.

    categories.json or the train JSON may lie in the data set's folder or one of the two above it.
    Without them a class has a species and a genus, read from its name.

    Raises: UserError if names in the JSON are not those of the data.
    """
    source = tfds.read(folder, split)
    version = TFDS[source.name.partition(":")[0]]
    found = _near([folder, *list(folder.parents)[:2]], version)
    if found is None:
        log.warning(
            "no categories.json in %s or above: family and order of the classes are unknown",
            folder,
        )
        source.metadata = tuple(from_name(c) for c in source.classes)
        return source
    where, known = found
    _agree(source, known, where)
    source.metadata = tuple(describe(c) for c in known)
    return source


def _near(folders: Iterable[Path], version: str) -> tuple[Path, Sequence[Category]] | None:
    for folder in folders:
        train = any((folder / f"train{v}.json").is_file() for v in (version, f"_{version}", ""))
        if train or (folder / "categories.json").is_file():
            known = categories(folder, version)
            if TAXONOMY[0] in known[0]:
                return folder, known
    return None


def _agree(source: Source, known: Sequence[Category], where: Path) -> None:
    pairs = zip(source.classes, (c["name"] for c in known), strict=False)
    wrong = [(a, b) for a, b in pairs if with_blanks(a).lower() != with_blanks(b).lower()]
    if wrong or len(known) != source.num_classes:
        first = f"{wrong[0][0]!r} here is {wrong[0][1]!r} there" if wrong else "their number"
        raise UserError(
            f"the {len(known)} categories in {where} are not the {source.num_classes} classes of "
            f"{source.name}: they differ in {first}. Use the JSON files of the same year."
        )
