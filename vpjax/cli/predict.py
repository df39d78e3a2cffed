"""Classify images by a run: CSV, JSON Lines, or a page."""

import argparse
import logging
import sys
from pathlib import Path

from vpjax.cli import flags
from vpjax.core import logs
from vpjax.core.errors import UserError

log = logging.getLogger(__name__)

POSITIONALS = ("PATH...",)
EXAMPLE = "predict --workdir runs/pets --output pets.html photos/"
TOP_K = 3  # classes on a page, where --top_k does not say


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    add = parser.add_argument
    add("paths", metavar="PATH", nargs="+", help="images, folders, lists of paths, or - (stdin)")
    flags.add_run(parser, "backbone.weights, data.background ...")
    add("--top_k", type=int, metavar="K", help="classes an image, best first; default: 1")
    text = "file.csv, .jsonl or .html; may be repeated; default: stdout"
    add("--output", type=flags.folder, action="append", default=[], metavar="FILE", help=text)
    add("--format", choices=("csv", "jsonl"), default="csv", help="of standard output")
    add("--batch_size", type=int, default=64, metavar="N", help="images at once; default: 64")
    text = "divide logits by the temperature found on val"
    add("--calibrated", action="store_true", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Predict; see `vpjax.runs.predict`. Return 2 if files were left out."""
    from vpjax.cli import process
    from vpjax.core.progress import Progress
    from vpjax.data.arrays import open_photos
    from vpjax.data.forgiving import Forgiving
    from vpjax.data.photo_paths import find_photos
    from vpjax.report.answer_files import Outputs, kind_of
    from vpjax.runs.experiment import decoding
    from vpjax.runs.predict import Tally, answers, matched, none_readable
    from vpjax.runs.run import restored_run

    logs.to_screen(sys.stderr)  # standard output is for the predictions
    process.start()
    a = arguments
    kinds = [kind_of(path) for path in a.output]
    if a.batch_size < 1:
        raise UserError(f"--batch_size is {a.batch_size}; it must be above 0")
    trained = restored_run(a.workdir, flags.run_config(a), checkpoint=a.checkpoint)
    count = len(trained.classes)
    if a.top_k is not None and not 1 <= a.top_k <= count:
        raise UserError(f"--top_k is {a.top_k}; the run has {count} classes")
    top_k = a.top_k or (min(TOP_K, count) if set(kinds) == {"html"} else 1)
    heat = trained.temperature() if a.calibrated else 1.0
    photos = find_photos(a.paths)
    tally = Tally()
    tally.skipped |= photos.lost
    if not photos.found:
        raise none_readable(tally.skipped)
    found, note = matched(photos.found, () if trained.multilabel else trained.classes)
    source = open_photos(found)
    source.decoding = decoding(trained.config)
    source = Forgiving(source)
    labelled = bool(found[0].label)
    page = {"title": f"Predictions of {a.workdir.absolute().name}", "about": about(trained)}
    page |= {"how": source.decoding}
    outputs = Outputs(a.output, a.format, top_k, trained.multilabel, labelled, page)
    try:
        with Progress(len(source), batch_size=1) as progress:
            for batch in answers(trained, source, found, top_k, a.batch_size, heat):
                for answer in batch:
                    tally.add(answer)
                    outputs.add(answer)
                progress.update(tally.images)
    except BaseException:
        if left := outputs.leave():
            log.warning("what was done so far is in %s", ", ".join(left))
        raise
    tally.skipped |= source.skipped
    if not tally.images:
        outputs.leave()
        raise none_readable(tally.skipped)
    outputs.close(tally)
    ends = [*[note] * bool(note), *(f"written   {Path(path)}" for path in a.output)]
    for line in [*tally.lines(), *ends]:
        log.info("%s", line)
    return 2 if tally.skipped else 0


def about(trained) -> str:
    """Return a line on a run: method, backbone, step, and its own accuracy."""
    config, result = trained.config, trained.result or {}
    text = f"{config.method.name} on {config.backbone.name}, {len(trained.classes)} classes"
    for split in ("test", "val"):
        if (value := result.get(f"{split}_{result.get('metric')}")) is not None:
            return f"{text}, {split} {result['metric']} {value:.1f} % when it was trained"
    return text
