"""Sentences around class names for CLIP's text tower.

    class_prompts(source.metadata, choose("auto", source.metadata))
    -> ["a photo of danaus plexippus", "a wildlife photo of the species danaus plexippus", ...]

A template is a format string over the metadata of a class (`vpjax.data.source.Source.metadata`).
`WILDLIFE` and `CARS` are hierarchical: from the species, or model, up to larger groups. The lists
by data set say only what the images show. `ZERO_SHOT` holds the lists of the zero-shot baseline,
with "{}" for a name, `COOP` the one template of each data set that methods on CLIP publish with.
"""

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from vpjax.core.errors import UserError, unknown
from vpjax.data.class_names import clean, dataset_of, is_id

WILDLIFE = (
    "a photo of {species}",
    "a wildlife photo of the species {scientific_name}",
    "an organism belonging to genus {genus}",
    "an organism belonging to family {family}",
    "a species in the order {order}",
)
CARS = (
    "a photo of {full_name}",
    "a {full_name} car",
    "a {make} {model}",
    "a {type} made by {make}",
    "a {category} vehicle: {full_name}",
)
PHOTO = ("a photo of a {name}",)
# Pictures of all kinds, whose mean is a steady feature of a class: 60 in the manner of those that
# CLIP's authors wrote for ImageNet.
_QUALITIES = "bad good bright dark blurry pixelated cropped close-up low_resolution black_and_white"
_ARTS = "drawing painting sketch doodle sculpture rendering cartoon"
_LOOKS = "clean dirty nice weird cool large small hard_to_see"
_STUFFS = "plastic toy origami embroidered"
KINDS = tuple(
    sentence.replace("_", " ")
    for one in ("a", "the")
    for sentence in (
        f"a photo of {one} {{name}}.",
        *(f"a {quality} photo of {one} {{name}}." for quality in _QUALITIES.split()),
        *(f"a {art} of {one} {{name}}." for art in _ARTS.split()),
        *(f"a photo of {one} {look} {{name}}." for look in _LOOKS.split()),
        *(f"{one} {stuff} {{name}}." for stuff in _STUFFS.split()),
    )
)
TEMPLATES = {
    "photo": PHOTO,
    "kinds": KINDS,
    "wildlife": WILDLIFE,
    "cars": CARS,
    "aircraft": ("a photo of a {name}, a type of aircraft", "a photo of a {name} aeroplane"),
    "flowers": ("a photo of a {name}, a type of flower", "a close-up of a {name} flower"),
    "caltech101": ("a photo of a {name}", "a picture of a {name}", "a drawing of a {name}"),
    "pets": ("a photo of a {name}, a breed of pet", "a photo of a {name} at home"),
    "food": ("a photo of {name}, a type of food", "a plate of {name}"),
    "textures": ("a photo of a {name} texture", "a {name} surface, seen close up"),
    "scenes": ("a photo of a {name}", "a view of a {name}", "a place: {name}"),
    "satellite": ("a satellite photo of {name}", "land seen from above: {name}"),
    "actions": ("a photo of a person doing {name}", "a frame of a video of {name}"),
    "car_names": ("a photo of a {name}", "a photo of a {name}, a type of car"),
    "birds": ("a photo of a {name}, a type of bird", "a wildlife photo of a {name}"),
    "dogs": ("a photo of a {name}, a breed of dog",),
    "small": ("a photo of a {name}", "a small, blurry photo of a {name}"),
    "digits": ('a photo of the digit "{name}"', "the number {name}"),
}
# The list of a data set, by the beginning of its name (of a folder: its own) without OWNER; for
# others: "photo".
OWNER = re.compile("^(oxford_?(iiit_)?)?")
SHOWN = {
    "fgvc_aircraft": "aircraft",
    "fgvcaircraft": "aircraft",
    "flower": "flowers",
    "caltech-101": "caltech101",
    "caltech101": "caltech101",
    "pet": "pets",
    "food101": "food",
    "food-101": "food",
    "dtd": "textures",
    "describable": "textures",
    "sun397": "scenes",
    "eurosat": "satellite",
    "resisc45": "satellite",
    "ucf101": "actions",
    "cars196": "car_names",
    "stanfordcars": "car_names",
    "stanford_cars": "car_names",
    "stanford-cars": "car_names",
    "caltech_birds2011": "birds",
    "cub": "birds",
    "nabirds": "birds",
    "stanford_dogs": "dogs",
    "stanforddogs": "dogs",
    "stanford-dogs": "dogs",
    "cifar": "small",
    "mnist": "digits",
    "svhn": "digits",
    "digits": "digits",
}
# Of CoOp, and of what builds on it: by what the images show; others have the first.
COOP = {
    "photo": "a photo of a {name}.",
    "pets": "a photo of a {name}, a type of pet.",
    "flowers": "a photo of a {name}, a type of flower.",
    "aircraft": "a photo of a {name}, a type of aircraft.",
    "textures": "{name} texture.",
    "satellite": "a centered satellite photo of {name}.",
    "food": "a photo of {name}, a type of food.",
    "actions": "a photo of a person doing {name}.",
}
NUMBERED = ("digit", "number")  # words of templates for classes that are numbers

Facts = Mapping[str, Any]


def choose(
    choice: str | Sequence[str], metadata: Sequence[Facts], dataset: str = ""
) -> tuple[str, ...]:
    """Return templates for a data set.

    Args:
        choice: the name of a list of `TEMPLATES`; one template, or a sequence of them; "coop": the
            one of `COOP` that suits the data set; or "auto":
            `WILDLIFE` for classes with a species (without levels that the metadata lack), `CARS`
            for classes with a make, else the list of the data set, else "a photo of a {name}".
        metadata: what is known of each class.
        dataset: the data set's name.

    Raises:
        UserError: for a list that does not exist, or an empty sequence.
    """
    if not isinstance(choice, str):
        if not choice:
            raise UserError("the list of templates is empty; give one, such as 'a photo of {name}'")
        return tuple(choice)
    if choice == "coop":
        return (COOP.get(shown(dataset), COOP["photo"]),)
    if choice != "auto":
        if "{" in choice:
            return (choice,)
        if choice not in TEMPLATES:
            raise unknown("list of templates", choice, [*TEMPLATES, "auto", "coop"])
        return TEMPLATES[choice]
    first = metadata[0]
    if "species" in first:
        return tuple(t for t in WILDLIFE if keys(t) <= first.keys())
    if "make" in first:
        return CARS
    return TEMPLATES[shown(dataset)]


def shown(dataset: str) -> str:
    """Return what the images of a data set show, a name of `TEMPLATES`; "photo" of others."""
    dataset = OWNER.sub("", dataset_of(dataset))
    return next((kind for start, kind in SHOWN.items() if dataset.startswith(start)), "photo")


def keys(template: str) -> set[str]:
    """Return the names of the fields of a template.

    Raises: UserError if the template is not a format string, or has a field without a name, or with
        a format: {name:>999999999} would fill the memory.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"template {template!r} cannot be read: {error}.") from error
    found = {field for _, field, _, _ in parts if field is not None}
    if wrong := sorted(f for f in found if not f.isidentifier()):
        raise UserError(
            f"template {template!r} has {{{wrong[0]}}}; put a name in braces, such as {{name}}."
        )
    if any(spec or conversion for _, _, spec, conversion in parts):
        raise UserError(
            f"template {template!r} has a field with a format; put a name alone in braces, such as "
            "{name}."
        )
    return found


def class_prompts(classes: Sequence[Facts | str], templates: Sequence[str]) -> list[str]:
    """Return C x T sentences: all templates of class 0, then of class 1 ...

    Args:
        classes: metadata of each class, or its name.
        templates: T format strings.

    Raises:
        UserError: if a class lacks what a template asks for, or is called by a number or an id.
    """
    if any("name" in keys(t) for t in templates):
        refuse_ids(classes, templates)
    out = []
    wanted = [(t, keys(t)) for t in templates]
    for number, facts in enumerate(classes):
        facts = {"name": facts} if isinstance(facts, str) else dict(facts)
        facts |= {"name": clean(str(facts["name"]))} if facts.get("name") else {}
        for template, names in wanted:
            if missing := sorted(n for n in names if facts.get(n) in (None, "")):
                label = facts.get("name", facts.get("id", number))
                raise UserError(
                    f"template {template!r} needs {missing[0]!r}, but class {number} ({label}) has "
                    f"only {', '.join(sorted(map(str, facts))) or 'nothing'}. Choose other "
                    "templates, or add what is missing to the data's categories."
                )
            out.append(template.format_map(facts))
    return out


def refuse_ids(classes: Sequence[Facts | str], templates: Sequence[str]) -> None:
    """Check that classes have names, which CLIP may know, and not numbers or ids.

    Args:
        classes: metadata of each class, or its name.
        templates: that the names go into; numbers are names where these speak of digits.

    Raises:
        UserError: if a class is called by a number or an id.
    """
    if any(word in t for t in templates for word in NUMBERED):
        return
    names = [c if isinstance(c, str) else str(c.get("name", "")) for c in classes]
    if wrong := [n for n in names if n and is_id(n)]:
        raise UserError(
            f"{len(wrong)} of {len(names)} classes are called by a number or an id, such as "
            f"{wrong[0]!r}, which tells CLIP nothing about them. Give their names in a file, "
            "--config.text.class_names=FILE: a name a line in the order of the labels, or lines "
            "'class, name'."
        )


NAME_TYPES = ("common", "scientific", "both")
ZERO_SHOT = {
    "common": (
        "a photo of a {}",
        "a picture of a {}",
        "a wildlife photo of a {}",
        "an image of a {}",
    ),
    "scientific": ("a photo of {}", "a picture of {}", "a wildlife photo of {}", "an image of {}"),
    "both": (
        "a photo of a {}",
        "a picture of a {}",
        "a wildlife photo of a {}",
        "an image of a {}",
        "a photo of {}",
        "a picture of {}",
    ),
    "cars": (
        "a photo of a {}",
        "a picture of a {}",
        "a {} car",
        "an image of a {}",
        "a {} vehicle",
    ),
    "shapes": ("a photo of {}", "a picture of {}", "an image of {}", "a {} shape"),
}


def choose_zero_shot(
    choice: str | Sequence[str], metadata: Sequence[Facts], name_type: str, dataset: str = ""
) -> tuple[str, ...]:
    """Return templates with one "{}" for a name, of `ZERO_SHOT` or as `choose` does.

    "auto" is the list of the name type for classes with a species, "cars" for those with a make,
    else the list of the data set.
    Raises: UserError as `choose` does, or for an unknown name type.
    """
    if name_type not in NAME_TYPES:
        raise unknown("text.name_type", name_type, NAME_TYPES)
    if choice == "auto" and "species" in metadata[0]:
        return ZERO_SHOT[name_type]
    if choice == "auto" and "make" in metadata[0]:
        return ZERO_SHOT["cars"]
    if isinstance(choice, str) and choice in ZERO_SHOT:
        return ZERO_SHOT[choice]
    return tuple(t.replace("{name}", "{}") for t in choose(choice, metadata, dataset))


def zero_shot_names(classes: Sequence[Facts | str], name_type: str = "both") -> list[list[str]]:
    """Return the names of each class, for `vpjax.models.text.zero_shot.class_prompts`.

    Names keep their case.

    Args:
        classes: metadata of each class, or its name.
        name_type: "scientific"; "common", which is the scientific name where there is no other; or
            "both", where a class may have two names.

    Raises:
        UserError: for an unknown name type, or a class without a name.
    """
    if name_type not in NAME_TYPES:
        raise unknown("name type", name_type, NAME_TYPES)
    return [_names(number, facts, name_type) for number, facts in enumerate(classes)]


def _names(number: int, facts: Facts | str, name_type: str) -> list[str]:
    facts = {"name": facts} if isinstance(facts, str) else facts
    if not facts.get("name"):
        raise UserError(
            f"class {number} has no name, only {dict(facts)}. iNaturalist's names are in "
            "categories.json, beside the annotations."
        )
    name = str(facts["name"]).replace("_", " ")
    common = str(facts.get("common_name") or "").replace("_", " ")
    if name_type == "scientific":
        return [name]
    if name_type == "common":
        return [common or name]
    return [n for n in (common, name) if n]
