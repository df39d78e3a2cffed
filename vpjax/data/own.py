"""What a user's own data are, by their place alone: `config.data.name` for a folder or a list.

own_data("photos/")        "folder:/home/me/photos"
own_data("list.csv")       "csv:/home/me/list.csv"
own_data("eurosat/rgb")    the same: a name of TFDS
"""

import difflib
import os
import re
from pathlib import Path

from vpjax.core.errors import UserError
from vpjax.data import prepare
from vpjax.data.class_folders import class_folder
from vpjax.data.files import images_below
from vpjax.data.folder import READERS
from vpjax.data.open import ORIGINALS

LISTS = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".json": "zhou"}


def own_data(text: str) -> str:
    """Return the name of the data set that a place holds, with its whole path.

    Args:
        text: a folder with a folder for each class, a list of files, "kind:PATH", or a name of
            TFDS.

    Raises:
        UserError: for a place that does not exist or has no such data, with what was expected.
    """
    kind, _, inner = text.partition(":")
    if kind in READERS or kind in ORIGINALS:
        return f"{kind}:{_absolute(inner)}"
    place = Path(text).expanduser()
    if place.is_dir():
        _check_folder(place)
        return f"folder:{_absolute(text)}"
    if place.is_file():
        if place.suffix.lower() not in LISTS:
            raise UserError(
                f"{text} is one file, and no list of files ({', '.join(LISTS)}). Give the folder "
                "that holds a folder of images for each class, or a list path,label[,split]."
            )
        return f"{LISTS[place.suffix.lower()]}:{_absolute(text)}"
    if not re.fullmatch(r"\w+(/\w+)?(:[\d.]+)?", text):
        above = next(p for p in [*place.absolute().parents] if p.is_dir())
        raise UserError(
            f"{text} does not exist. Give a folder that holds a folder of images for each class, "
            f"or a list path,label[,split]; {above} is there."
        )
    if (base := re.split("[/:]", text)[0]) not in (known := prepare.known_names()):
        near = difflib.get_close_matches(base, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"{text} is no folder or list of files here, and no data set of TFDS.{hint} Give a "
            "folder that holds a folder of images for each class."
        )
    return text


def _check_folder(place: Path) -> None:
    if class_folder(place).splits:
        return
    loose = len(images_below(place, deep=False))
    raise UserError(
        f"{place} has no folders of classes, but {loose} images. Make a folder for each class in "
        f"it, named as the class, such as {place / 'cat'}, and move the images there; or give a "
        "list path,label of them."
        if loose
        else f"{place} has neither folders of classes nor images."
    )


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))
