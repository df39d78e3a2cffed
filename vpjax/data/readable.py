"""Broken image files, found before a run rather than by its last evaluation.

check_readable({"train": source, "test": source})    raises, naming every split's broken files
"""

import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from vpjax.core.errors import UserError
from vpjax.data.source import Source

log = logging.getLogger(__name__)

DECODED = 20_000  # images of a run up to which all are decoded: less than an epoch of training
BLOCK = 32  # images that a thread takes at once
SHOWN = 5


def check_readable(sources: Mapping[str, Source]) -> None:
    """Check that the image files of all splits can be read; other sources are passed over.

    Up to 20,000 images all are decoded. In larger data sets only empty and missing files are found,
    and `check-data` decodes the rest.

    Args:
        sources: the data by split.

    Raises:
        UserError: naming the first broken files of each split.
    """
    files = {split: s for split, s in sources.items() if hasattr(s.records, "pieces")}
    files = {k: s for k, s in files.items() if s.labels_known and not _packed(s)}
    fault = _decoded if sum(map(len, files.values())) <= DECODED else _present
    found = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for split, source in files.items():
            blocks = [range(i, min(i + BLOCK, len(source))) for i in range(0, len(source), BLOCK)]
            several = pool.map(lambda block, s=source: fault(s, block), blocks)
            if broken := [text for texts in several for text in texts]:
                found.append(f"{len(broken)} of {len(source)} images of {split!r} cannot be read:")
                found += broken[:SHOWN]
    if found:
        raise UserError("\n  ".join(found))


def _packed(source):
    """Whether images lie several to a file, as TFDS prepares them: those were read when written."""
    pieces = source.records.pieces
    return not pieces or pieces[0].start != 0 or pieces[0].stop != 1


def _decoded(source, block):
    try:
        source.__getitems__(block)
        return []
    except UserError:  # one of them is broken: reading them one by one shows which
        return [text for i in block if (text := _fault(source, i))]


def _fault(source, index):
    try:
        source[index]
    except UserError as error:
        return str(error)
    return ""


def _present(source, block):
    pieces = source.records.pieces
    return [
        f"{source.name}: example {i} ({pieces[i].file}) is empty or missing."
        for i in block
        if not _size(pieces[i].file)
    ]


def _size(path):
    try:
        return os.path.getsize(path)
    except OSError:
        return 0
