"""Finds image files that cannot be read before a run begins, rather than after hours of it.

    verify(source, threads=8)    {3: "test/cat/1.png: ValueError: no known image format, ..."}

A JPEG is decoded at an eighth of its size, which reads the whole file in a fraction of the time.
Images in memory and prepared data sets, whose builders have decoded every image, are left alone.
"""

import collections
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from vpjax.core.errors import UserError
from vpjax.data import images
from vpjax.data.source import Source

BLOCK = 32  # files that a thread takes at once
AHEAD = 8  # blocks per thread that are in work or waiting
SHOWN = 10  # files in a message


def has_files(source: Source) -> bool:
    """Whether the images are files that a user may have damaged."""
    names = getattr(source.records, "names", None)
    return bool(names) and hasattr(source.records, "pieces")


def verify(
    source: Source,
    threads: int,
    done: Callable[[int], None] = lambda n: None,
    part: slice = slice(None),
) -> dict[int, str]:
    """Read image files whole.

    Args:
        source: the data.
        threads: number of threads that read.
        done: called, now and then, with the number of files that are done.
        part: which of the files.

    Returns:
        {index: file and fault} of those that cannot be read.
    """
    indices = range(len(source))[part]
    blocks = [indices[i : i + BLOCK] for i in range(0, len(indices), BLOCK)]
    found: dict[int, str] = {}
    with ThreadPoolExecutor(threads) as pool:
        waiting: collections.deque = collections.deque()
        for number, block in enumerate(blocks):
            waiting.append(pool.submit(_faults, source, block))
            if len(waiting) > AHEAD * threads:  # bounded: there may be millions
                found |= waiting.popleft().result()
                done(min((number + 1) * BLOCK, len(indices)))
        for block in waiting:
            found |= block.result()
    done(len(indices))
    return found


def _faults(source: Source, block: Sequence[int]) -> dict[int, str]:
    out = {}
    for index in block:
        try:
            (record,) = source.records.__getitems__([index])
        except UserError as error:
            out[index] = str(error)
            continue
        if not isinstance(record.image, bytes):
            continue
        try:
            image, _ = images.load(record.image, source.decoding, quick=True)
            with image:
                # Small, and shows what is wrong with values rather than with the file.
                images.pixels(image, source.image_shape[2], source.decoding)
        except Exception as error:  # Pillow raises a dozen kinds on broken files
            out[index] = f"{record.file}: {type(error).__name__}: {error}"
    return out


def message(source: Source, faults: dict[int, str]) -> str:
    """Return the message for files that cannot be read."""
    lines = [f"{source.name}: {len(faults)} of {len(source)} images cannot be read:"]
    lines += [f"  example {i} ({text[:300]})" for i, text in sorted(faults.items())[:SHOWN]]
    if len(faults) > SHOWN:
        lines.append(f"  and {len(faults) - SHOWN} more; `check-data` shows each kind of fault")
    lines.append(
        "Nothing was computed with them. Replace these files, or take them out of the data set."
    )
    return "\n".join(lines)
