"""Evaluate a run, or all of a comparison, on the test split or else on val."""

import argparse
import functools
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
    if not (arguments.workdir / "config.json").exists() and any(
        arguments.workdir.glob("**/config.json")
    ):
        run_all(arguments)
        return
    config = flags.run_config(arguments)
    result = evaluate_run(arguments.workdir, config, arguments.checkpoint)
    log.info("%s", summary.one_line(result))
    changed = recorded.changes(arguments.workdir, config)
    if changed := [key for key in changed if recorded.changes_numbers(key)]:
        log.info("not compared with what the run recorded: other %s", ", ".join(changed))
    else:
        summary.log_comparison(result, read_result(arguments.workdir))


def run_all(arguments: argparse.Namespace) -> None:
    """Evaluate the runs in a folder; see `vpjax.studies.evaluate`."""
    from vpjax.studies.evaluate import as_table, evaluate_runs

    config_of = functools.partial(flags.run_config, arguments)
    rows = evaluate_runs(arguments.workdir, config_of, arguments.checkpoint)
    log.info("\n%s\n", as_table(rows))
