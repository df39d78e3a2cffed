"""Share a trained run with its card: on the hub, or a folder."""

import argparse

from vpjax.cli import flags
from vpjax.core import escape

POSITIONALS = ("TARGET",)
EXAMPLE = "push --workdir runs/birds mylab/birds"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    text = "name on the hub (OWNER/NAME, or hf://OWNER/NAME), or a new folder"
    parser.add_argument("target", metavar="TARGET", help=text)
    flags.add_workdir(parser, "folder of the run", required=True)
    text = "licence of what was learnt, such as cc-by-4.0, for the card"
    parser.add_argument("--license", default="", metavar="NAME", help=text)
    parser.add_argument("--private", action="store_true", help="a new repository is yours only")


def run(arguments: argparse.Namespace) -> None:
    """Share; see `vpjax.runs.share`."""
    from vpjax.cli import process
    from vpjax.runs.share import push_run

    process.start()
    a = arguments
    print(escape.terminal(str(push_run(a.workdir, a.target, licence=a.license, private=a.private))))
