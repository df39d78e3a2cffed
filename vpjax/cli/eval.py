"""Evaluate a trained run on its test split, or else on val."""

import argparse
import logging

from vpjax.cli import flags

log = logging.getLogger(__name__)

POSITIONALS = ()
EXAMPLE = "eval --workdir runs/vpt_cifar --config.data.test=val"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    flags.add_run(parser)
    flags.add_joining(parser)


def run(arguments: argparse.Namespace) -> None:
    """Evaluate, and compare with what the run recorded; see `vpjax.runs.scores.evaluate_run`."""
    from vpjax.cli import process
    from vpjax.runs import recorded, summary
    from vpjax.runs.scores import evaluate_run
    from vpjax.runs.workdir import read_result

    process.start(arguments)
    config = flags.run_config(arguments)
    result = evaluate_run(arguments.workdir, config, arguments.checkpoint)
    log.info("%s", summary.one_line(result))
    changed = recorded.changes(arguments.workdir, config)
    if changed := [key for key in changed if recorded.changes_numbers(key)]:
        log.info("not compared with what the run recorded: other %s", ", ".join(changed))
    else:
        summary.log_comparison(result, read_result(arguments.workdir))
