"""Write tables and a page of many runs, or the page of one."""

import argparse

from vpjax.cli import flags

POSITIONALS = ()
EXAMPLE = "report --workdir out --runs runs/a runs/b"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    flags.add_workdir(parser, "folder of the report, and of the runs without --runs", required=True)
    text = "folders of runs"
    parser.add_argument("--runs", metavar="DIR", nargs="+", type=flags.words, default=[], help=text)
    text = "what makes a table or a row of its own: preset, weights, optim.lr ..."
    many = {"nargs": "+", "type": flags.words, "default": []}
    parser.add_argument("--group_by", metavar="KEY", help=text, **many)


def run(arguments: argparse.Namespace) -> None:
    """Report; see `vpjax.report`."""
    from vpjax.report.write import report

    folders = [flags.folder(name) for words in arguments.runs for name in words]
    report(arguments.workdir, folders, [key for words in arguments.group_by for key in words])
