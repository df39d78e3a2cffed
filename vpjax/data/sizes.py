"""The shape that all images of a data set have, by their headers.

Presets for small images need one size. Photos of the usual kind differ by the second or third.
"""

import os

from PIL import ExifTags

from vpjax.core.reading import open_plain
from vpjax.data.decoders import open_image
from vpjax.data.files import PHOTO, Files
from vpjax.data.images import GREY

Shape = tuple[int | None, int | None, int]


def common_shape(files: Files) -> Shape:
    """Return H, W and C if all images have them, `PHOTO` if they differ.

    C is 1 where all are grey. A file without a readable header is passed over here: reading it
    gives the error.
    """
    size, grey = None, True
    for name in files.names:
        try:
            found, mode = _header(os.path.join(files.folder, name))
        except Exception:  # noqa: S112  Pillow raises a dozen kinds on broken files
            continue
        if size not in (None, found):
            return PHOTO
        size, grey = found, grey and mode in GREY
    return PHOTO if size is None else (*size, 1 if grey else 3)


def _header(path):
    """Return height, width and mode of an upright image."""
    with open_plain(path) as file, open_image(file) as image:
        width, height = image.size
        if width != height and image.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9):
            width, height = height, width
        return (height, width), image.mode
