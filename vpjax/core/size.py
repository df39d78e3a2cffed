"""Sizes of images, patches and windows: an edge, or height and width, in pixels."""

Size = int | tuple[int, int]


def pair(size: Size) -> tuple[int, int]:
    """Return (height, width) of an edge or a pair."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
