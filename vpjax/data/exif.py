"""How a photo must be turned: the one fact of EXIF that matters, read without its other tags.

    data, turn = without_metadata(data)    a JPEG without the segments of its metadata, and 6
    orientation(exif)                      1 to 8; 1: upright, or not known

Cameras and editors write tags that break readers of EXIF: rationals of 0, text in the place of
numbers, offsets outside of the file. So the table is searched for the orientation alone, and a JPEG
is handed on without its metadata, which no decoder needs.
"""

import re
import struct

TAG = 0x0112
VALUES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # struct's letters of the types of TIFF
XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
HEADER = b"Exif\0\0"
METADATA = range(0xE1, 0xEE)  # APP1 to APP13: Exif, XMP, colour profiles, several pictures in one
SCAN = 0xDA
ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length


def orientation(exif: bytes) -> int:
    """Return the orientation of an EXIF block, 1 to 8; 1 if it has none, or is damaged.

    Args:
        exif: from its byte order on, with "Exif" before it or not.
    """
    exif = exif.removeprefix(HEADER)
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", exif, place)
            if tag == TAG:
                (value,) = struct.unpack_from(order + VALUES.get(kind, "H"), exif, place + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:  # the table ends early, or lies outside of the block
        pass
    return 1


def of_xmp(xmp: bytes | str) -> int:
    """Return the orientation that XMP says, 1 to 8; 1 if it says none."""
    found = XMP.search(xmp.encode(errors="replace") if isinstance(xmp, str) else xmp)
    return int(found[1]) if found else 1


def without_metadata(data: bytes) -> tuple[bytes, int]:
    """Return a JPEG without its metadata, and its orientation; other files as they are, and 1."""
    if data[:2] != b"\xff\xd8":
        return data, 1
    exif, xmp, kept, place = 1, 1, [data[:2]], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != SCAN:
        marker = data[place + 1]
        if marker in (0xFF, *ALONE):  # a filling byte, or nothing behind it
            size = 1 if marker == 0xFF else 2
        else:
            size = 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        segment = data[place : place + size]
        if marker == 0xE1:
            exif = orientation(segment[4:]) if segment[4:10] == HEADER and exif == 1 else exif
            xmp = of_xmp(segment) if xmp == 1 else xmp
        if marker not in METADATA:
            kept.append(segment)
        place += size
    kept.append(data[place:])
    return b"".join(kept), exif if exif != 1 else xmp
