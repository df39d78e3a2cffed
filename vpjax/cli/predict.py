"""Classify images by a trained run; a line of CSV for each."""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import vpjax
from vpjax.cli import flags
from vpjax.core import logs
from vpjax.core.errors import UserError

POSITIONALS = ("PATH...",)
EXAMPLE = "predict --workdir runs/pets --output pets.csv photos/"
COLUMNS = ("path", "label", "class", "probability")


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    parser.add_argument("paths", metavar="PATH", nargs="+", help="images, or one folder of images")
    flags.add_run(parser)
    parser.add_argument(
        "--top_k", type=int, default=1, metavar="K", help="lines an image, best first"
    )
    text = "CSV file to write; default: standard output"
    parser.add_argument("--output", type=flags.folder, metavar="FILE", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Predict; see `vpjax.load_run`."""
    from vpjax.cli import process
    from vpjax.core.table import write_csv
    from vpjax.runs.run import restored_run

    logs.to_screen(sys.stderr)  # standard output is for the predictions
    process.start()
    config = flags.run_config(arguments)
    trained = restored_run(arguments.workdir, config, checkpoint=arguments.checkpoint)
    count = len(trained.classes)
    if not 1 <= arguments.top_k <= count:
        raise UserError(f"--top_k is {arguments.top_k}; the run has {count} classes")
    paths = arguments.paths
    predictions = trained.predict(paths if len(paths) > 1 else paths[0])
    rows = list(lines(predictions, trained.classes, arguments.top_k))
    if arguments.output:
        write_csv(arguments.output, rows, COLUMNS)
        return
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def lines(
    predictions: "vpjax.Prediction", classes: Sequence[str], top_k: int
) -> Iterator[dict[str, Any]]:
    """Yield the `top_k` most probable classes of every image, the most probable first."""
    for path, row in zip(predictions.paths, predictions.probabilities, strict=True):
        for label in (-row).argsort(kind="stable")[:top_k]:
            cells = (path, label, classes[label], f"{row[label]:.6f}")
            yield dict(zip(COLUMNS, cells, strict=True))
