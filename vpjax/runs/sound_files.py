"""Reads every image file of every split before a run begins: `config.data.verify`.

A folder remembers what was found sound, so that a run that goes on does not read it all again; and
so does the process, for studies whose runs share their data.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from vpjax.core import distributed, forms
from vpjax.core.errors import UserError
from vpjax.core.files import write_json
from vpjax.core.progress import Progress
from vpjax.data.source import Source
from vpjax.data.verify import has_files, message, verify
from vpjax.runs.workdir import has_checkpoints

log = logging.getLogger(__name__)

FILE = "sound_files.json"
SHOWN = 5000  # images from which on progress is shown
SOUND: set[str] = set()  # in this process


def check_files(sources: Mapping[str, Source], folder: Path) -> None:
    """Check that all image files can be read.

    Args:
        sources: the data by split.
        folder: of the run.

    Raises:
        UserError: naming the files that cannot, of every split.
    """
    try:
        noted = forms.read(folder / FILE, {str: str}) or {}
    except forms.Damaged as error:
        log.debug("files     %s All are read again.", error)
        noted = {}
    known = SOUND | set(noted.values())
    # A folder with checkpoints belongs to data already, perhaps to others: it is left as it is.
    new = not has_checkpoints(folder)
    found = []
    for split, source in sources.items():
        if not has_files(source):
            continue
        key = f"{source.fingerprint} {source.decoding}"
        if key not in known and (text := _faults(split, source)):
            found.append(text)
            continue
        SOUND.add(key)
        noted[split] = key
        if new:
            write_json(folder / FILE, noted)
    if found:
        raise UserError("\n".join(found))


def _faults(split, source):
    """Return what is to be said of the files of a split that cannot be read, "" of sound ones."""
    index, count = distributed.index(), distributed.count()
    threads = os.cpu_count() or 1
    part = slice(index, None, count)
    if len(source) < SHOWN:
        faults = verify(source, threads, part=part)
    else:
        log.debug("files     reading all %d of %s once, to find broken ones", len(source), split)
        with Progress(
            len(source), batch_size=1, stream=distributed.screen(), what=f"checking {split}"
        ) as progress:
            done = lambda n: progress.update(min(n * count, len(source)))  # noqa: E731
            faults = verify(source, threads, done, part)
    if distributed.all_max(bool(faults)):  # all processes stop, whoever found it
        if faults:
            return message(source, faults)
        return f"{source.name}: another process found images that cannot be read"
    return ""
