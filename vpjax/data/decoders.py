"""The one place where image files are opened: by a short list of decoders, and no others.

    with open_image(data) as image: ...

Pillow knows 40 formats. Some start another program on the content of the file (EPS: Ghostscript),
most are older than the data sets of today, and a file's content decides, whatever its name says. So
only what data sets hold is decoded, by Pillow's own code and the libraries inside it.
"""

import functools
import io
import os
from typing import BinaryIO

from PIL import Image

# In the order in which they are tried.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "PCX")
FORMATS += ("TGA",)  # the last: it has no mark of its own at its beginning


def open_image(source: bytes | str | os.PathLike | BinaryIO) -> Image.Image:
    """Open an image by one of the allowed decoders; its pixels are not read yet.

    Args:
        source: content, path or open file.

    Raises:
        PIL.UnidentifiedImageError: if it is of no allowed format.
        OSError, SyntaxError or ValueError: from Pillow, for what is damaged.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    return Image.open(file, formats=list(allowed()))


@functools.cache
def allowed() -> tuple[str, ...]:
    """Return the allowed formats that this build of Pillow has."""
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


@functools.cache
def extensions() -> frozenset[str]:
    """Return the endings, in lower case, of the files that are read."""
    known = Image.registered_extensions()
    return frozenset(ending for ending, kind in known.items() if kind in allowed())
