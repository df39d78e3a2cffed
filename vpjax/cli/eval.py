"""Evaluate a trained run on its test split, or else on val."""

import argparse
import logging

from vpjax.cli import flags

log = logging.getLogger(__name__)

POSITIONALS = ()
EXAMPLE = "eval --workdir runs/vpt_cifar"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    flags.add_workdir(parser, "folder of the run", required=True)
    flags.add_joining(parser)


def run(arguments: argparse.Namespace) -> None:
    """Evaluate, and compare with what the run recorded; see `vpjax.runs.scores.evaluate_run`."""
    from vpjax.cli import process
    from vpjax.runs import summary
    from vpjax.runs.scores import evaluate_run
    from vpjax.runs.workdir import read_result

    process.start(arguments)
    result = evaluate_run(arguments.workdir)
    log.info("%s", summary.one_line(result))
    summary.log_comparison(result, read_result(arguments.workdir))
