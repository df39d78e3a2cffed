"""Fetch a shared run, from the hub or a folder."""

import argparse

from vpjax.cli import flags

POSITIONALS = ("SOURCE",)
EXAMPLE = "pull mylab/birds --workdir runs/birds"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    text = "name on the hub (OWNER/NAME), @ and a revision behind it, or a folder"
    parser.add_argument("source", metavar="SOURCE", help=text)
    flags.add_workdir(parser, "new folder of the run", required=True)


def run(arguments: argparse.Namespace) -> None:
    """Fetch; see `vpjax.runs.share`."""
    from vpjax.cli import process
    from vpjax.runs.share import pull_run

    process.start()
    pull_run(arguments.source, arguments.workdir)
