"""Sizes of images, patches and windows: an edge, or height and width, in pixels."""

from vpjax.core.errors import UserError

Size = int | tuple[int, int]


class NoSize(UserError, ValueError):
    """A value is no size; who reads it from a file may catch it, and names the file."""


def pair(size: Size) -> tuple[int, int]:
    """Return (height, width) of an edge or a pair.

    Raises:
        NoSize: for what is neither, as a configuration of others may say.
    """
    if isinstance(size, int):
        return size, size
    try:
        height, width = size
        return int(height), int(width)
    except (TypeError, ValueError) as error:
        text = f"{size!r} is no size in pixels; expected an edge, or height and width"
        raise NoSize(text) from error
