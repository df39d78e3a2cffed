"""Classify images by a trained run; a line of CSV for each."""

import argparse
import csv
import sys
from collections.abc import Iterator
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
    parser.add_argument("paths", metavar="PATH", nargs="+", help="images, or folders of images")
    flags.add_workdir(parser, "folder of the run", required=True)
    parser.add_argument(
        "--top_k", type=int, default=1, metavar="K", help="lines an image, best first"
    )
    text = "CSV file to write; default: standard output"
    parser.add_argument("--output", type=flags.folder, metavar="FILE", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Predict; see `vpjax.load_run`."""
    from vpjax.cli import process
    from vpjax.core.table import write_csv

    logs.to_screen(sys.stderr)  # standard output is for the predictions
    process.start()
    model = vpjax.load_run(arguments.workdir)
    rows = list(lines(model.predict(arguments.paths), arguments.top_k))
    if arguments.output:
        write_csv(arguments.output, rows, COLUMNS)
        return
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def lines(predictions: Any, top_k: int) -> Iterator[dict[str, Any]]:
    """Yield the `top_k` most probable classes of every image, the most probable first."""
    count = len(predictions.class_names)
    if not 1 <= top_k <= count:
        raise UserError(f"--top_k is {top_k}; the run has {count} classes")
    for path, row in zip(predictions.paths, predictions.probabilities, strict=True):
        for label in (-row).argsort(kind="stable")[:top_k]:
            name, share = predictions.class_names[label], f"{row[label]:.6f}"
            yield dict(zip(COLUMNS, (path, label, name, share), strict=True))
